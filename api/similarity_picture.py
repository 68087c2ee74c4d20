"""A heat map of how alike networks are, with matplotlib (extra 'plot')."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

from .foreign import MEASURES, Likeness
from .frontier_picture import check_picture


def draw_similarity(likeness: Likeness, target: Path) -> None:
    """Draw the similarity of every two places, with lines between the networks.

    Args:
        likeness: What :func:`nnfactory.api.similarity` gave.
        target: The file to write, PNG or SVG by its ending.

    Raises:
        UsageError: See :func:`check_picture`.
        MissingExtraError: matplotlib is not installed.
    """
    check_picture(target)
    from matplotlib.figure import Figure

    counts = [len(places) for places in likeness.places]
    total = sum(counts)
    side = min(12.0, 4 + 0.08 * total)
    figure = Figure(figsize=(side + 1, side), dpi=130, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(likeness.values, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
    ends = list(accumulate(counts))
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color="white", linewidth=1)
        axes.axvline(end - 0.5, color="white", linewidth=1)
    middles = [end - (count + 1) / 2 for end, count in zip(ends, counts, strict=True)]
    axes.set_xticks(middles, likeness.networks, rotation=30, ha="right")
    axes.set_yticks(middles, likeness.networks)
    axes.set_title(
        f"{MEASURES[likeness.measure]} from the image to the features, {likeness.images} images",
        loc="left", fontsize=11,
    )  # fmt: skip
    figure.colorbar(picture, ax=axes, shrink=0.8)
    figure.savefig(target)
