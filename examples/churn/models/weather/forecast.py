"""Forecasts one daily reading of a weather station: the usual value of the day plus what is left of today's excess.

The usual value of a day is the mean of the days within a fortnight of it, over all years. The excess over
it fades by the same factor every day (a first-order autoregression). Input `data`, a folder with one CSV
file or the file itself, with the columns `date` and the reading; output `forecast`, a folder with `forecast.csv`.
"""

import argparse
import csv
import json
import math
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

HALF_WINDOW_DAYS = 14
HELD_BACK_DAYS = 365


class BadInput(Exception):
    """The input, an argument or the surroundings are wrong; the text says what to do."""


def read_series(path: Path, column: str) -> tuple[date, list[float]]:
    """Returns the first date and one value a day, without a gap."""
    days: list[date] = []
    values: list[float] = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := {"date", column} - set(reader.fieldnames or []):
            raise BadInput(f"{path.name}: columns are missing: {', '.join(sorted(missing))}; it has {reader.fieldnames}")
        for row in reader:
            where = f"{path.name}:{reader.line_num}"
            try:
                day, value = date.fromisoformat(row["date"].replace("/", "-")), float(row[column])
            except ValueError as error:
                raise BadInput(f"{where}: {error}") from None
            if days and day != days[-1] + timedelta(days=1):
                raise BadInput(f"{where}: {day} doesn't follow {days[-1]}: the days must be in order, without a gap")
            if not math.isfinite(value):
                raise BadInput(f"{where}: column `{column}` is not a finite number")
            days.append(day)
            values.append(value)
    if len(days) < HELD_BACK_DAYS + 2 * 366:
        raise BadInput(f"{path.name}: {len(days)} days are too few: three years are the least")
    return days[0], values


def of_year(day: date) -> tuple[int, int]:
    """Returns month and day; the 29th of February counts as the 28th, since few years have it."""
    return (2, 28) if (day.month, day.day) == (2, 29) else (day.month, day.day)


def usual_values(first: date, values: Sequence[float]) -> dict[tuple[int, int], float]:
    """Returns the usual value of each day of the year, by month and day."""
    sums: defaultdict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for index, value in enumerate(values):
        for shift in range(-HALF_WINDOW_DAYS, HALF_WINDOW_DAYS + 1):
            day = first + timedelta(days=index + shift)
            cell = sums[of_year(day)]
            cell[0] += value
            cell[1] += 1
    return {day: total / count for day, (total, count) in sums.items()}


def fading(excess: Sequence[float]) -> float:
    """Returns the share of a day's excess that is left on the next day, by least squares."""
    pairs = list(zip(excess, excess[1:]))
    square = math.fsum(a * a for a, _ in pairs)
    return math.fsum(a * b for a, b in pairs) / square if square else 0.0


def forecast(usual: Mapping[tuple[int, int], float], share: float, day: date, value: float, ahead: int) -> float:
    """Returns the value expected `ahead` days after a day with that value."""
    then = day + timedelta(days=ahead)
    return usual[of_year(then)] + share**ahead * (value - usual[of_year(day)])


def excesses(usual: Mapping[tuple[int, int], float], first: date, values: Sequence[float]) -> list[float]:
    """Returns how much each value is above the usual one of its day."""
    days = (first + timedelta(days=i) for i in range(len(values)))
    return [value - usual[of_year(day)] for day, value in zip(days, values)]


def backtest(first: date, values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean absolute error for the next day over the last year, learned from the years before it,
    and that of saying "as today"."""
    start = len(values) - HELD_BACK_DAYS
    usual = usual_values(first, values[:start])
    share = fading(excesses(usual, first, values[:start]))
    ours = naive = 0.0
    for i in range(start, len(values)):
        expected = forecast(usual, share, first + timedelta(days=i - 1), values[i - 1], 1)
        ours += abs(values[i] - expected)
        naive += abs(values[i] - values[i - 1])
    return ours / HELD_BACK_DAYS, naive / HELD_BACK_DAYS


def folder_of(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        raise BadInput(f"{variable} is not set: run this as a step, or set it by hand")
    return Path(value)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--column", default="temp_max", help="the reading")
    arguments.add_argument("--days", type=int, default=7, choices=range(1, 61), metavar="1..60", help="how far ahead")
    options = arguments.parse_args()

    data = folder_of("WINDLASS_INPUTS") / "data"
    files = [data] if data.is_file() else sorted(data.rglob("*.csv"))
    if len(files) != 1:
        raise BadInput(f"input `data` must hold exactly one CSV file, it holds {len(files)}")
    first, values = read_series(files[0], options.column)
    error, naive = backtest(first, values)
    print(f"{options.column}: mean error {error:.3f} for the next day, {naive:.3f} by saying 'as today'", flush=True)

    usual = usual_values(first, values)
    share = fading(excesses(usual, first, values))
    last = first + timedelta(days=len(values) - 1)
    output = folder_of("WINDLASS_OUTPUTS") / "forecast"
    output.mkdir(parents=True, exist_ok=True)
    with (output / "forecast.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["date", options.column])
        for ahead in range(1, options.days + 1):
            value = forecast(usual, share, last, values[-1], ahead)
            writer.writerow([last + timedelta(days=ahead), f"{value:.2f}"])
    result = {"rows": len(values), "error": round(error, 4), "naive_error": round(naive, 4), "share": round(share, 4)}
    folder_of("WINDLASS_RESULT").write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except BadInput as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
