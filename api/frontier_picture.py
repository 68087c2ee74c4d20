"""A picture of frontiers: estimated accuracy over latency, with matplotlib (extra 'plot')."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..factory.errors import MissingExtraError, UsageError
from ..factory.schema import FrontierPoint
from ..factory.units import count_text
from .pipeline import Frontier

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")
# Okabe and Ito's colors, which color-blind readers tell apart; and markers, for print.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osD^v<>"


def check_picture(target: Path) -> None:
    """Raise unless a picture can be drawn there; before anything that takes long.

    Raises:
        UsageError: Another ending than those of :data:`FORMATS`, or no such folder.
        MissingExtraError: matplotlib is not installed.
    """
    if target.suffix.lower() not in FORMATS:
        raise UsageError(f"A picture is written as {' or '.join(FORMATS)}, not as {target.name!r}.")
    if not target.parent.is_dir():
        raise UsageError(f"{target} cannot be written: there is no folder {target.parent}.")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError.of("plot", purpose="A picture of the frontier")


def draw_frontiers(frontiers: Sequence[Frontier], target: Path) -> None:
    """Draw what :func:`nnfactory.plan` gave, one line per device, knees ringed.

    Args:
        frontiers: Of one task on one or several devices.
        target: The file to write, PNG or SVG by its ending.

    Raises:
        UsageError: See :func:`check_picture`.
        MissingExtraError: matplotlib is not installed.
    """
    check_picture(target)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for number, frontier in enumerate(frontiers):
        _draw(axes, frontier, _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)])
    first = frontiers[0]
    title = f"{count_text(len(first.task.classes), 'class')} of {first.library}"
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("latency p50, ms", fontsize=11)
    axes.set_ylabel(_accuracy_label(first), fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, loc="lower right", fontsize=10)
    figure.savefig(target, metadata={"Date": None} if target.suffix.lower() == ".svg" else None)


def _accuracy_label(frontier: Frontier) -> str:
    """What the vertical axis shows."""
    band = frontier.points[0].estimate.accuracy
    assert band is not None
    return f"accuracy on validation images, estimated\n(bands: {band.level:.0%} intervals)"


def _draw(axes: Axes, frontier: Frontier, color: str, marker: str) -> None:
    """One frontier: points, their intervals of accuracy as a band, knees."""
    latency = [_latency(point) for point in frontier.points]
    bands = [point.estimate.accuracy for point in frontier.points]
    known = [band for band in bands if band is not None]
    kind = "from a measured table" if frontier.is_measured else "estimated"
    axes.plot(
        latency, [band.value for band in known], color=color, marker=marker, markersize=4,
        linewidth=1.5, label=f"{frontier.device} (latency {kind})",
    )  # fmt: skip
    low, high = [band.low for band in known], [band.high for band in known]
    axes.fill_between(latency, low, high, color=color, alpha=0.1, linewidth=0)
    for point, band in zip(frontier.points, known, strict=True):
        if point.is_knee:
            place = _latency(point), band.value
            axes.plot(*place, marker="o", markersize=13, fillstyle="none", color=color)
            axes.annotate(
                f"{place[0]:.3g} ms, {point.plan.input_size} px", place, xytext=(9, -12),
                textcoords="offset points", color=color, fontsize=9,
            )  # fmt: skip


def _latency(point: FrontierPoint) -> float:
    assert point.estimate.latency_ms is not None
    return point.estimate.latency_ms.value
