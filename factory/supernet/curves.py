"""A picture of how a training run went, with matplotlib (extra 'train')."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, float]
_INCHES, _DPI = (8.0, 5.0), 150  # 1200 x 750 pixels; legible at 800
_TEXT, _SMALL = 12.0, 11.0  # points
_NOT_METRICS = ("step", "seconds", "loss")
_WORDS = {"full": "full network", "half": "half width"}
# Okabe and Ito's colors, which color-blind readers tell apart; and markers, for print.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osD^v<>P"
_GRAY = "#555555"


def draw_curves(log: Path, target: Path, *, metric: str = "metric") -> None:
    """Draw the validation metrics and the loss of a run over its steps.

    Every number of a row is drawn but ``step`` and ``seconds``: ``loss`` on axes of its own, all
    others as metrics. Where a resumed run repeats steps, the later rows count.

    Args:
        log: ``log.jsonl`` of a run: a JSON object per line, with ``step`` and ``loss``.
        target: The PNG to write.
        metric: What the validation metric is called, such as "AP50".

    Raises:
        MissingExtraError: matplotlib is not installed.
        DataError: The log is missing, empty or damaged.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("train", purpose="A picture of the training") from error
    rows = _rows(log)
    figure = Figure(figsize=_INCHES, dpi=_DPI, facecolor="white", layout="constrained")
    _draw(figure, rows, metric)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    # 64 colors are enough for lines and text, and a third of the bytes: libraries carry this.
    Image.open(picture).convert("RGB").quantize(64).save(target, "PNG", optimize=True)


def _rows(log: Path) -> list[Row]:
    """The rows by rising step."""
    try:
        lines = log.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{log} cannot be read: {error}.") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is None:
            raise DataError(
                f"Line {number} of {log} is damaged: it must be a JSON object with numbers 'step' "
                "and 'loss'.",
                hints=["remove the line"],
            )
        rows = [earlier for earlier in rows if earlier["step"] < row["step"]] + [row]
    if not rows:
        raise DataError(f"{log} is empty: nothing was validated yet.")
    return rows


def _row(line: bytes) -> Row | None:
    """The numbers of one line; None where it is no row of a log."""
    try:
        entry = json.loads(line)
        numbers = {
            str(key): float(value)
            for key, value in entry.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
    except (ValueError, AttributeError, OverflowError):
        return None
    is_row = "loss" in numbers and 0 <= numbers.get("step", -1.0) < math.inf
    return numbers if is_row else None


def _draw(figure: Figure, rows: list[Row], metric: str) -> None:
    """Metrics above, the loss below; the loss alone where there are no metrics."""
    names = list(dict.fromkeys(key for row in rows for key in row if key not in _NOT_METRICS))
    axes = figure.subplots(
        2 if names else 1, sharex=True, squeeze=False, height_ratios=(3, 2) if names else None
    )[:, 0]
    _style_(axes[-1], "training loss")
    _line_(axes[-1], rows, "loss", color=_GRAY, marker="o")
    if names:
        _style_(axes[0], f"validation {metric}")
        for number, name in enumerate(names):
            _line_(
                axes[0], rows, name, color=_COLORS[number % len(_COLORS)],
                marker=_MARKERS[number % len(_MARKERS)], dashed=number >= len(_COLORS),
            )  # fmt: skip
        known = [
            row[name] for row in rows for name in names if math.isfinite(row.get(name, math.nan))
        ]
        if known and min(known) >= 0:
            axes[0].set_ylim(bottom=0)
        axes[0].legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=min(len(names), 3), frameon=False,
            fontsize=_SMALL, borderaxespad=0.2,
        )  # fmt: skip
    figure.align_ylabels()
    last = rows[-1]
    took = (
        f" ({last['step']:.0f} in {last['seconds'] / 3600:.2f} hours)" if "seconds" in last else ""
    )
    axes[-1].set_xlabel(f"training step{took}", fontsize=_TEXT)
    axes[-1].set_xlim(0, max(1.0, last["step"]) * 1.02)


def _style_(axes: Axes, label: str) -> None:
    axes.set_ylabel(label, fontsize=_TEXT)
    axes.tick_params(labelsize=_SMALL)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _line_(
    axes: Axes, rows: list[Row], name: str, *, color: str, marker: str, dashed: bool = False
) -> None:
    """One curve over the rows that have the number, with its last value in the legend."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps, values = zip(*points, strict=True)
    label = f"{_WORDS.get(name, name.replace('_', ' '))}: {values[-1]:.3f}"
    axes.plot(
        steps, values, color=color, marker=marker, markersize=4.5, linewidth=1.8,
        linestyle="--" if dashed else "-", label=label,
    )  # fmt: skip
