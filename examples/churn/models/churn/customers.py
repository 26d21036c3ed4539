"""The customer table: what the telecom's export holds, and the clean table made of it."""

import csv
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ports import BadInput


@dataclass(frozen=True, slots=True)
class Customer:
    """One customer and one month of use; minutes and calls are sums over that month."""

    id: str
    state: str
    region: str
    account_length: int
    international_plan: bool
    voice_mail_plan: bool
    voice_mail_messages: int
    day_minutes: float
    day_calls: int
    evening_minutes: float
    evening_calls: int
    night_minutes: float
    night_calls: int
    international_minutes: float
    international_calls: int
    service_calls: int
    churned: bool


# Column of the export for each field of the clean table, but for `id`, which the export lacks.
# The four `…_charge` columns are left out: each is its minutes at a fixed rate, so it adds nothing.
EXPORT_COLUMNS = {
    "state": "state",
    "region": "area_code",
    "account_length": "account_length",
    "international_plan": "international_plan",
    "voice_mail_plan": "voice_mail_plan",
    "voice_mail_messages": "number_vmail_messages",
    "day_minutes": "total_day_minutes",
    "day_calls": "total_day_calls",
    "evening_minutes": "total_eve_minutes",
    "evening_calls": "total_eve_calls",
    "night_minutes": "total_night_minutes",
    "night_calls": "total_night_calls",
    "international_minutes": "total_intl_minutes",
    "international_calls": "total_intl_calls",
    "service_calls": "number_customer_service_calls",
    "churned": "churn",
}
COLUMNS = [field.name for field in fields(Customer)]


def _text(cell: str) -> str:
    if not cell:
        raise ValueError("is empty")
    return cell


def _truth(cell: str) -> bool:
    if cell not in ("yes", "no"):
        raise ValueError("is neither `yes` nor `no`")
    return cell == "yes"


def _amount(cell: str) -> float:
    number = float(cell)
    if not 0 <= number < math.inf:
        raise ValueError("is not a finite number from zero")
    return number


def _count(cell: str) -> int:
    number = int(cell)
    if number < 0:
        raise ValueError("is below zero")
    return number


_PARSERS: dict[Any, Callable[[str], Any]] = {str: _text, bool: _truth, float: _amount, int: _count}


def _customer(cells: dict[str, str], columns: dict[str, str], where: str) -> Customer:
    values = {}
    for field in fields(Customer):
        column = columns[field.name]
        try:
            values[field.name] = _PARSERS[field.type](cells[column])
        except ValueError as error:
            raise BadInput(f"{where}: column `{column}` has {cells[column]!r}: {error}") from None
    return Customer(**values)


def _rows(path: Path, columns: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields where each row stands, for messages, and its cells by column."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        present = reader.fieldnames or []
        if missing := [column for column in columns if column not in present]:
            raise BadInput(f"{path}: columns are missing: {', '.join(missing)}; it has {', '.join(present) or 'none'}")
        for row in reader:
            where = f"{path.name}:{reader.line_num}"
            if None in row or None in row.values():
                raise BadInput(f"{where}: the row has more or fewer cells than the {len(present)} columns")
            yield where, row


def read_export(path: Path) -> list[Customer]:
    """Reads the telecom's export and numbers the customers, since the export names none."""
    columns = EXPORT_COLUMNS | {"id": "id"}
    customers = []
    for number, (where, cells) in enumerate(_rows(path, EXPORT_COLUMNS.values()), start=1):
        clean = {column: cell.strip() for column, cell in cells.items()}
        clean["area_code"] = clean["area_code"].removeprefix("area_code_")
        customers.append(_customer(clean | {"id": f"C{number:05}"}, columns, where))
    if not customers:
        raise BadInput(f"{path}: there is no customer in it")
    return customers


def read_table(path: Path) -> list[Customer]:
    """Reads a clean table that `write_table` wrote."""
    columns = {name: name for name in COLUMNS}
    customers = [_customer(cells, columns, where) for where, cells in _rows(path, COLUMNS)]
    if not customers:
        raise BadInput(f"{path}: there is no customer in it")
    return customers


def write_table(path: Path, customers: Iterable[Customer]) -> None:
    """Writes a clean table: one header row, `yes` and `no` for truth values."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for customer in customers:
            cells = (getattr(customer, name) for name in COLUMNS)
            writer.writerow(["no" if c is False else "yes" if c is True else c for c in cells])


def is_held_back(customer_id: str, seed: str, one_in: int) -> bool:
    """Returns true for one customer in `one_in`: always the same ones for one seed, on any machine."""
    digest = hashlib.sha256(f"{seed}:{customer_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % one_in == 0
