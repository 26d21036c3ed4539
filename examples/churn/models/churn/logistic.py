"""Logistic regression by Newton's method, with a ridge penalty, in plain Python.

A row is a list of numbers, all rows are of one length. The fit standardises the columns, so that the
penalty treats them alike, and gives the weights back with the means and scales it used.
The method is iteratively reweighted least squares: Hastie, Tibshirani and Friedman,
"The Elements of Statistical Learning", 2nd edition, section 4.4.1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Row = Sequence[float]


def sigmoid(x: float) -> float:
    """Returns 1 / (1 + e^-x) without overflow for any finite x."""
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


def log_loss(margin: float, label: bool) -> float:
    """Returns -log of the probability given to the label, without overflow."""
    m = margin if label else -margin
    return max(-m, 0.0) + math.log1p(math.exp(-abs(m)))


def solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Solves a symmetric positive definite system by its Cholesky factor; reads the lower triangle only.

    Raises `ValueError` if the matrix is not positive definite.
    """
    n = len(right)
    factor: list[list[float]] = []
    for i in range(n):
        row = [0.0] * (i + 1)
        for j in range(i + 1):
            lower = row if j == i else factor[j]
            rest = matrix[i][j] - sum(a * b for a, b in zip(row[:j], lower[:j]))
            if j < i:
                row[j] = rest / lower[j]
            elif rest > 0:
                row[j] = math.sqrt(rest)
            else:
                raise ValueError(f"the matrix is not positive definite in row {i}")
        factor.append(row)
    x = list(right)
    for i in range(n):
        x[i] = (x[i] - sum(factor[i][k] * x[k] for k in range(i))) / factor[i][i]
    for i in reversed(range(n)):
        x[i] = (x[i] - sum(factor[k][i] * x[k] for k in range(i + 1, n))) / factor[i][i]
    return x


@dataclass(frozen=True, slots=True)
class Logistic:
    """A fitted model: P(label) = sigmoid(intercept + sum of weight * (value - mean) / scale)."""

    intercept: float
    weights: list[float]
    means: list[float]
    scales: list[float]

    def margin(self, row: Row) -> float:
        """Returns the log odds of a row of raw values."""
        parts = zip(self.weights, row, self.means, self.scales, strict=True)
        return self.intercept + sum(w * (x - m) / s for w, x, m, s in parts)

    def probability(self, row: Row) -> float:
        """Returns the probability for a row of raw values."""
        return sigmoid(self.margin(row))


def standardise(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation of each column; the scale of a constant column is 1."""
    columns = list(zip(*rows, strict=True))
    means = [math.fsum(column) / len(rows) for column in columns]
    variances = [math.fsum((x - m) ** 2 for x in column) / len(rows) for column, m in zip(columns, means)]
    return means, [math.sqrt(v) if v > 1e-18 else 1.0 for v in variances]


def fit(
    rows: Sequence[Row],
    labels: Sequence[bool],
    ridge: float,
    progress: Callable[[int, float, float], None] = lambda step, objective, change: None,
    max_steps: int = 50,
    tolerance: float = 1e-8,
) -> Logistic:
    """Fits the weights that minimise the sum of log losses plus ridge / 2 times the squared weights.

    The intercept is not penalised. `progress` is called after each step with its number, the objective
    and the largest change of a weight. Raises `ValueError` if the rows can't be learned from, or if the
    weights still move by more than `tolerance` after `max_steps`.
    """
    if not 0 < ridge < math.inf:
        raise ValueError(f"ridge must be a positive number, it is {ridge}")
    if len(rows) != len(labels) or len(set(labels)) != 2:
        raise ValueError("there must be one label a row, and rows of both labels")
    means, scales = standardise(rows)
    design = [[1.0, *((x - m) / s for x, m, s in zip(row, means, scales))] for row in rows]
    penalty = [0.0] + [ridge] * len(means)

    def objective(weights: Sequence[float]) -> float:
        losses = (log_loss(_dot(weights, row), label) for row, label in zip(design, labels))
        return math.fsum(losses) + 0.5 * math.fsum(p * w * w for p, w in zip(penalty, weights))

    weights = [0.0] * len(penalty)
    current = objective(weights)
    for step in range(1, max_steps + 1):
        direction = _newton_direction(design, labels, weights, penalty)
        # The objective is convex, so halving the step must find a lower value, or there is none left to find.
        size = 1.0
        while (lower := objective(trial := [w + size * d for w, d in zip(weights, direction)])) > current and size > 1e-6:
            size /= 2
        change = max(abs(t - w) for t, w in zip(trial, weights))
        weights, current = trial, lower
        progress(step, current, change)
        if change < tolerance:
            return Logistic(weights[0], weights[1:], means, scales)
    raise ValueError(f"the weights still move after {max_steps} steps: raise ridge, now {ridge}")


def _dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b))


def _newton_direction(
    design: Sequence[Row], labels: Sequence[bool], weights: Row, penalty: Row
) -> list[float]:
    """Returns minus the inverse of the Hessian times the gradient."""
    n = len(weights)
    descent = [-p * w for p, w in zip(penalty, weights)]
    hessian = [[penalty[i] if i == j else 0.0 for j in range(i + 1)] for i in range(n)]
    for row, label in zip(design, labels):
        p = sigmoid(_dot(weights, row))
        error, curvature = label - p, p * (1.0 - p)
        for i, x in enumerate(row):
            if x:
                descent[i] += error * x
                scaled, line = curvature * x, hessian[i]
                for j in range(i + 1):
                    line[j] += scaled * row[j]
    return solve(hessian, descent)
