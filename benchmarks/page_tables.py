"""Sections of pages: some text and a table in Markdown, and how figures are spelled in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Row = Mapping[str, str]


def section(text: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text above a table; nothing where there are no rows.

    Args:
        text: What the table says; a heading may stand before it.
        columns: Titles.
        rows: Cells, as many as there are titles.
    """
    if not rows:
        return ""
    lines = [_line(columns), "|---" * len(columns) + "|", *map(_line, rows)]
    return "\n".join([text, "", *lines]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def interval(row: Row, value: str = "value") -> str:
    """A share in [0, 1] with its interval: 0.850 [0.837, 0.862]."""
    middle, low, high = (float(row[name]) for name in (value, "low", "high"))
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def points(row: Row, value: str, low: str = "low", high: str = "high", *, sign: str = "") -> str:
    """A difference in points with its interval: 5.3 [3.7, 7.0]; with ``sign`` "+": +5.3 [..]."""
    middle, least, most = (100 * float(row[name]) for name in (value, low, high))
    return f"{middle:{sign}.1f} [{least:{sign}.1f}, {most:{sign}.1f}]"
