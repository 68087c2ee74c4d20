"""What an import must be told, in a small TOML file instead of options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError
from ..toml_files import tomllib
from .detection_head import head_from_table

KEYS: dict[str, Any] = {
    "name": str, "labels": (str, list), "mean": list, "std": list, "colors": str, "license": str,
    "input_size": int, "head": dict,
}  # fmt: skip


def read_import_card(path: Path) -> dict[str, Any]:
    """The keys of a card, with the types that :func:`import_donor` takes.

    ``labels`` is a list, or the name of a file with one a line, beside the card.

    Raises:
        DataError: The card cannot be read, or holds something else.
    """
    try:
        card = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    for key, value in card.items():
        if key not in KEYS:
            raise DataError(f"{path} has the key '{key}'; it may have {', '.join(KEYS)}.")
        if isinstance(value, bool) or not isinstance(value, KEYS[key]):
            raise DataError(f"{path}: '{key}' has the wrong type, got {value!r}.")
    if card.get("input_size", 1) < 1:
        raise DataError(f"{path}: 'input_size' must be at least 1, got {card['input_size']}.")
    for key in ("mean", "std"):
        if key in card:
            card[key] = _numbers(path, key, card[key])
    if isinstance(card.get("labels"), str):
        card["labels"] = read_labels(path.parent / card["labels"])
    elif "labels" in card:
        card["labels"] = tuple(map(str, card["labels"]))
    if "head" in card:
        card["head"] = head_from_table(card["head"])
    return card


def _numbers(path: Path, key: str, values: list[object]) -> tuple[float, ...]:
    if len(values) != 3 or not all(type(value) in (int, float) for value in values):
        raise DataError(f"{path}: '{key}' must hold three numbers, got {values!r}.")
    return tuple(float(value) for value in values)  # type: ignore[arg-type]


def read_labels(file: Path) -> tuple[str, ...]:
    """Names of classes, one a line, in order.

    Raises:
        DataError: The file cannot be read, or holds none.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not names:
        raise DataError(f"{file} holds no names: it needs one a line, in the order of the outputs.")
    return names
