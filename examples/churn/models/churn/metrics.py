"""How good a set of probabilities is: ranking (AUC), lift and calibration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Returns the chance that a random positive is scored above a random negative; ties count half.

    This is the Mann-Whitney statistic, from the ranks of all scores. Raises `ValueError` without both labels.
    """
    positives = sum(labels)
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise ValueError("the AUC needs rows of both labels")
    order = sorted(range(len(scores)), key=scores.__getitem__)
    rank_sum, start = 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        mean_rank = (start + 1 + end) / 2
        rank_sum += mean_rank * sum(labels[i] for i in order[start:end])
        start = end
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows that were given similar probabilities."""

    rows: int
    positives: int
    mean_score: float

    @property
    def rate(self) -> float:
        """The share of positives."""
        return self.positives / self.rows


def bins(scores: Sequence[float], labels: Sequence[bool], count: int) -> list[Bin]:
    """Splits the rows, highest score first, into `count` bins of equal size to within one row."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    count = min(count, len(order))
    edges = [len(order) * k // count for k in range(count + 1)] if count else [0]
    parts = (order[a:b] for a, b in zip(edges, edges[1:]))
    return [Bin(len(p), sum(labels[i] for i in p), math.fsum(scores[i] for i in p) / len(p)) for p in parts]


def brier(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """Returns the mean squared distance of probability and label: 0 is perfect."""
    return math.fsum((s - y) ** 2 for s, y in zip(scores, labels, strict=True)) / len(scores)
