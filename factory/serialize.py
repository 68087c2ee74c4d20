"""Nouns to and from plain JSON values."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from . import schema
from .errors import DataError

Noun = TypeVar("Noun")


def table_from_noun(noun: object) -> Any:
    """Plain JSON values (dict, list, str, number, bool, None) of a noun."""
    if dataclasses.is_dataclass(noun) and not isinstance(noun, type):
        return {f.name: table_from_noun(getattr(noun, f.name)) for f in dataclasses.fields(noun)}
    if isinstance(noun, Mapping):
        return {str(key): table_from_noun(value) for key, value in noun.items()}
    if isinstance(noun, tuple | list):
        return [table_from_noun(value) for value in noun]
    return noun


def noun_from_table(cls: type[Noun], table: object) -> Noun:
    """The noun of class ``cls`` that :func:`table_from_noun` wrote.

    Raises:
        DataError: Values are missing, unknown or of the wrong type.
        SpecError: Values are outside their range.
    """
    return typing.cast(Noun, _convert(cls, table, cls.__name__))


def _convert(wanted: Any, value: object, where: str) -> object:
    if dataclasses.is_dataclass(wanted):
        return _dataclass_from_table(wanted, value, where)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, where) for item in value)
    if origin is Mapping and isinstance(value, dict):
        return {
            _key(arguments[0], key, where): _convert(arguments[1], item, where)
            for key, item in value.items()
        }
    if wanted is object:
        return value
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, wanted) and isinstance(value, bool) <= (wanted is bool):
        return value
    raise DataError(f"{where}: {value!r} is not of the expected type.")


def _key(wanted: Any, key: str, where: str) -> object:
    """A key of a mapping; JSON writes every key as text."""
    if wanted is not int:
        return key
    try:
        return int(key)
    except ValueError as error:
        raise DataError(f"{where}: the key {key!r} is no whole number.") from error


def _dataclass_from_table(cls: Any, table: object, where: str) -> object:
    if not isinstance(table, dict):
        raise DataError(f"{where} must be a table, got {table!r}.")
    hints = typing.get_type_hints(cls, {**vars(schema), **vars(sys.modules[cls.__module__])})
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise DataError(f"{where} has no field {unknown[0]!r}.")
    values = {
        name: _convert(hints[name], table[name], f"{where}.{name}")
        for name in fields
        if name in table
    }
    try:
        return cls(**values)
    except TypeError as error:
        raise DataError(f"{where}: {error}.") from error
