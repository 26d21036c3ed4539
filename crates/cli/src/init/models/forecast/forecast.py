"""Forecasts sales by the mean of each weekday: small, and hard to beat for a shop without a trend.

Needs nothing but Python. The engine gives it three environment variables:
  WINDLASS_INPUTS   a folder with each input of the step (read-only)
  WINDLASS_OUTPUTS  a folder where each output must be written
  WINDLASS_RESULT   a file for one small JSON value: it is shown in the summary, and later steps may use it
"""

import argparse
import csv
import datetime
import json
import os
from pathlib import Path

# Days held back to measure the forecast on.
HELD_BACK = 14


def weekday_means(rows):
    """Returns the mean of each weekday, Monday first."""
    sold = {day: [] for day in range(7)}
    for date, amount in rows:
        sold[date.weekday()].append(amount)
    return [sum(sold[day]) / len(sold[day]) for day in range(7)]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--days", type=int, default=7)
    days = arguments.parse_args().days

    rows = []
    for file in sorted((Path(os.environ["WINDLASS_INPUTS"]) / "data").rglob("*.csv")):
        with file.open(newline="", encoding="utf-8") as lines:
            rows += [(datetime.date.fromisoformat(r["date"]), float(r["sold"])) for r in csv.DictReader(lines)]
    rows.sort()
    print(f"{len(rows)} days, {rows[0][0]} to {rows[-1][0]}", flush=True)

    # How good is it? Forecast the last days from those before them.
    means = weekday_means(rows[:-HELD_BACK])
    errors = [abs(amount - means[date.weekday()]) for date, amount in rows[-HELD_BACK:]]
    error = sum(errors) / len(errors)

    means = weekday_means(rows)
    out = Path(os.environ["WINDLASS_OUTPUTS"]) / "forecast"
    out.mkdir()
    with (out / "forecast.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["date", "expected"])
        for ahead in range(1, days + 1):
            date = rows[-1][0] + datetime.timedelta(days=ahead)
            table.writerow([date.isoformat(), f"{means[date.weekday()]:.1f}"])

    print(f"off by {error:.1f} a day on the last {HELD_BACK} days", flush=True)
    result = {"days": days, "mean_error": round(error, 2)}
    Path(os.environ["WINDLASS_RESULT"]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
