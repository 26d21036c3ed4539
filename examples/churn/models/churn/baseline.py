"""Scores without a model: the churn rate of customers alike. What sales gets when training failed.

Customers are alike if they agree on the international plan and on whether they made many service calls.
Inputs `training` and `customers` (clean tables); output `scores`, one folder a region with `scores.csv`.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable

import scores
from customers import Customer, read_table
from features import MANY_SERVICE_CALLS
from ports import input_file, output_folder, run, write_result


def group(c: Customer) -> tuple[bool, bool]:
    """Returns what makes customers alike."""
    return c.international_plan, c.service_calls >= MANY_SERVICE_CALLS


def rates(training: Iterable[Customer]) -> dict[tuple[bool, bool], float]:
    """Returns the churn rate of each group, drawn to one half where there are few rows (Laplace's rule)."""
    counts: defaultdict[tuple[bool, bool], list[int]] = defaultdict(lambda: [0, 0])
    for c in training:
        counts[group(c)][c.churned] += 1
    return {alike: (left + 1) / (stayed + left + 2) for alike, (stayed, left) in counts.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--regions", required=True, help="area codes with commas, for example 408,415")
    arguments.add_argument("--calls", type=int, default=100, help="how many customers sales can call in a region")
    options = arguments.parse_args()

    rate = rates(read_table(input_file("training", "*.csv")))
    everyone = read_table(input_file("customers", "*.csv"))
    for region in options.regions.split(","):
        customers = scores.of_region(everyone, region)
        folder = output_folder(f"scores/{region}")
        scores.write(folder, customers, [rate.get(group(c), 0.5) for c in customers], options.calls)
        print(f"region {region}: {len(customers)} customers scored by the rate of their group", flush=True)
    write_result({"groups": len(rate)})


if __name__ == "__main__":
    run(main)
