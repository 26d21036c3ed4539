"""The scores of one region: who to call, the likeliest to leave first."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from customers import Customer
from ports import BadInput

COLUMNS = ["customer", "state", "region", "rank", "probability", "call"]


def of_region(customers: Sequence[Customer], region: str) -> list[Customer]:
    """Returns the customers of a region, at least one."""
    chosen = [c for c in customers if c.region == region]
    if not chosen:
        known = ", ".join(sorted({c.region for c in customers}))
        raise BadInput(f"there is no customer in region={region!r}; the data has {known}")
    return chosen


def write(folder: Path, customers: Sequence[Customer], probabilities: Sequence[float], calls: int) -> None:
    """Writes `scores.csv`, ranked from 1; the first `calls` customers are to be called."""
    ranked = sorted(zip(probabilities, customers, strict=True), key=lambda pair: (-pair[0], pair[1].id))
    with (folder / "scores.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for rank, (probability, c) in enumerate(ranked, start=1):
            writer.writerow([c.id, c.state, c.region, rank, f"{probability:.6f}", "yes" if rank <= calls else "no"])


def read_all(folder: Path) -> list[dict[str, str]]:
    """Reads every `scores.csv` below the folder, in the order of their paths; links to folders count as folders."""
    below = os.walk(folder, followlinks=True)
    rows: list[dict[str, str]] = []
    for path in sorted(Path(parent) / "scores.csv" for parent, _, files in below if "scores.csv" in files):
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != COLUMNS:
                raise BadInput(f"{path} has the columns {reader.fieldnames}, not {COLUMNS}")
            rows.extend(reader)
    if not rows:
        raise BadInput(f"there are no scores below {folder}")
    return rows
