"""The trained model as a JSON file that a person can read."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from customers import Customer
from features import features
from logistic import Logistic
from ports import BadInput

FORMAT = "churn-logistic-1"


def design(customers: Iterable[Customer]) -> list[list[float]]:
    """Returns one row of features a customer."""
    return [list(features(c).values()) for c in customers]


def save(path: Path, model: Logistic, names: list[str], facts: dict[str, float]) -> None:
    """Writes the model, the names of its features and facts about its making."""
    content = {"format": FORMAT, "features": names, **asdict(model), "facts": facts}
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load(path: Path, example: Customer) -> Logistic:
    """Reads a model and checks that it was trained on the features that this code makes."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found, names = content["format"], content["features"]
        model = Logistic(content["intercept"], content["weights"], content["means"], content["scales"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is no model file: {error!r}") from None
    if found != FORMAT:
        raise BadInput(f"{path} has format {found!r}, this code reads {FORMAT!r}: train again")
    if names != list(features(example)):
        raise BadInput(f"{path} was trained on other features than this code makes: train again")
    return model
