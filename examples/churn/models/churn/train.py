"""Trains the churn model and measures it on the rows held back.

Inputs `training` and `holdout` (clean tables); output `model` (JSON).
"""

import argparse

import logistic
import metrics
import model_file
from customers import read_table
from features import features
from ports import BadInput, input_file, output_path, run, write_result


def show_step(step: int, objective: float, change: float) -> None:
    print(f"step {step}: objective {objective:.4f}, largest change of a weight {change:.2e}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--ridge", type=float, default=1.0, help="penalty on large weights, above zero")
    options = arguments.parse_args()

    training = read_table(input_file("training", "*.csv"))
    holdout = read_table(input_file("holdout", "*.csv"))
    print(f"training on {len(training)} customers, {len(holdout)} held back", flush=True)
    try:
        labels = [c.churned for c in training]
        model = logistic.fit(model_file.design(training), labels, options.ridge, show_step)
        scores = [model.probability(row) for row in model_file.design(holdout)]
        truth = [c.churned for c in holdout]
        measured = {"auc": metrics.auc(scores, truth), "brier": metrics.brier(scores, truth)}
    except ValueError as error:
        raise BadInput(str(error)) from None

    facts = measured | {"rows": len(training), "holdout": len(holdout), "ridge": options.ridge}
    model_file.save(output_path("model"), model, list(features(training[0])), facts)
    print(f"AUC on the rows held back: {measured['auc']:.4f}, Brier score {measured['brier']:.4f}", flush=True)
    write_result({name: round(value, 6) for name, value in facts.items()})


if __name__ == "__main__":
    run(main)
