"""How a script of a pipeline reads its inputs and hands its results on.

The engine gives each attempt three environment variables:

WINDLASS_INPUTS   a folder with one read-only file or folder for each declared input;
WINDLASS_OUTPUTS  a folder where each declared output must be written;
WINDLASS_RESULT   the file for one small JSON value that later steps may use.

Nothing here knows the engine beyond that, so a script runs in a plain shell too.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class BadInput(Exception):
    """The input, an argument or the surroundings are wrong; the text says what to do."""


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        raise BadInput(f"{variable} is not set: run this as a step, or set it to a folder by hand")
    return Path(value)


def input_path(name: str) -> Path:
    """Returns the path of an input, which may be a file or a folder."""
    path = _folder("WINDLASS_INPUTS") / name
    if not path.exists():
        raise BadInput(f"input `{name}` is missing at {path}: declare it under `inputs` of the step")
    return path


def input_file(name: str, pattern: str) -> Path:
    """Returns the one file of an input: the input itself, or the one in its folder that fits `pattern`."""
    path = input_path(name)
    if path.is_file():
        return path
    found = sorted(path.rglob(pattern))
    if len(found) != 1:
        raise BadInput(f"input `{name}` must hold exactly one {pattern} file, it holds {len(found)}: {path}")
    return found[0]


def output_path(name: str) -> Path:
    """Returns the path to write an output at; the folder it lies in exists."""
    path = _folder("WINDLASS_OUTPUTS") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def output_folder(name: str) -> Path:
    """Returns the path of an output that is a folder, which exists and is empty for a new attempt."""
    path = output_path(name)
    path.mkdir(parents=True, exist_ok=True)
    return path


def write_result(value: object) -> None:
    """Hands a small JSON value to later steps, as `steps.NAME.result`."""
    _folder("WINDLASS_RESULT").write_text(json.dumps(value, allow_nan=False) + "\n", encoding="utf-8")


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a script's main function; bad input becomes one line on standard error and exit code 2."""
    try:
        main()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
