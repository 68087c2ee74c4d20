"""TOML: the reader that this Python has, and a writer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["toml_text", "tomllib"]


def toml_text(table: Mapping[str, Any], prefix: str = "") -> str:
    """TOML of nested tables of strings, numbers, booleans and lists of these.

    A JSON string is a TOML basic string, which is all the quoting that is needed.
    """
    plain, nested = [], []
    for key, value in table.items():
        name = _toml_key(key)
        if isinstance(value, Mapping):
            path = f"{prefix}{name}"
            nested.append(f"\n[{path}]\n{toml_text(value, f'{path}.')}")
        elif value is not None:
            plain.append(f"{name} = {_toml_value(value)}\n")
    return "".join(plain + nested)


def _toml_key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _toml_value(key)


def _toml_value(value: object) -> str:
    """One value on one line; tables inside lists are written inline."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
