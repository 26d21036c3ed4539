"""Cleans the month's export and splits it: rows to learn from, rows held back, customers still with us.

Input `data` (the export); outputs `training`, `holdout` and `active`, clean tables.
"""

import argparse

from customers import is_held_back, read_export, write_table
from ports import input_file, output_path, run, write_result


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", default="churn-1", help="another text holds other rows back")
    arguments.add_argument("--hold-back-one-in", type=int, default=3, choices=range(2, 21), metavar="N")
    options = arguments.parse_args()

    customers = read_export(input_file("data", "*.csv"))
    held_back = [is_held_back(c.id, options.seed, options.hold_back_one_in) for c in customers]
    training = [c for c, held in zip(customers, held_back) if not held]
    holdout = [c for c, held in zip(customers, held_back) if held]
    active = [c for c in customers if not c.churned]
    for name, table in (("training", training), ("holdout", holdout), ("active", active)):
        write_table(output_path(name), table)
        left = sum(c.churned for c in table)
        print(f"{name}: {len(table)} customers, {left} of them left ({left / max(len(table), 1):.1%})", flush=True)
    regions = sorted({c.region for c in customers})
    write_result({"rows": len(customers), "training": len(training), "holdout": len(holdout), "regions": regions})


if __name__ == "__main__":
    run(main)
