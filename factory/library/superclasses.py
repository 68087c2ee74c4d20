"""Names that stand for several classes of a library: what they are kinds of, by WordNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ..toml_files import tomllib

FILE = Path(__file__).with_name("superclasses.toml")


def superclasses(wordnet: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Per superclass the positions of its classes, rising; those of fewer than two are left out.

    Args:
        wordnet: WordNet id per class; an empty sequence knows no superclass.
    """
    positions = {name: position for position, name in enumerate(wordnet)}
    found = {}
    for name, kinds in _kinds().items():
        members = tuple(sorted(positions[kind] for kind in kinds if kind in positions))
        if len(members) > 1:
            found[name] = members
    return found


@cache
def _kinds() -> Mapping[str, frozenset[str]]:
    """Per superclass the ids of all classes that are of its kind."""
    table: dict[str, list[str]] = tomllib.loads(FILE.read_text(encoding="utf-8"))["of"]

    def below(name: str) -> frozenset[str]:
        if name not in table:
            return frozenset((name,))
        return frozenset().union(*map(below, table[name]))

    return {name: below(name) for name in table}
