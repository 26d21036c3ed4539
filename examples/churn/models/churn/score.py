"""Scores the customers of one region that are still with us.

Inputs `model` (JSON) and `customers` (a clean table); output `scores`, a folder with `scores.csv`.
"""

import argparse
import math

import model_file
import scores
from customers import read_table
from ports import input_file, output_folder, run, write_result


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("region", help="area code, for example 415")
    arguments.add_argument("--calls", type=int, default=100, help="how many customers sales can call")
    options = arguments.parse_args()

    customers = scores.of_region(read_table(input_file("customers", "*.csv")), options.region)
    model = model_file.load(input_file("model", "*.json"), customers[0])
    probabilities = [model.probability(row) for row in model_file.design(customers)]
    scores.write(output_folder("scores"), customers, probabilities, options.calls)
    expected = math.fsum(probabilities)
    print(f"region {options.region}: {len(customers)} customers scored, {expected:.1f} expected to leave", flush=True)
    write_result({"region": options.region, "rows": len(customers), "expected": round(expected, 3)})


if __name__ == "__main__":
    run(main)
