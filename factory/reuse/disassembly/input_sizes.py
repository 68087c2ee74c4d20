"""Networks of others at smaller input sizes than they were trained at, and which size serves best.

Convolutions do not ask how large an image is. Where what follows them averages over the whole map,
a trained network answers at other sizes, too, and for a few classes it often answers nearly as well
at a size that halves its latency. Which size, together with which channels, images decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ...errors import DataError
from ...graph.evaluate import open_at_once
from ...graph.network import Network, tensor_shapes

STEPS, LEAST = 16, 8  # sizes are sixteenths of the whole one, half of it at least
EVERY = 2  # how many of these steps larger ones are apart that are cut
PATIENCE = 2  # larger sizes in a row that bring nothing
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A network at an input size, nothing cut.

    Attributes:
        side: Of the input, in pixels.
        divergence: From the network at its own size, see ``Kind.judged``.
        keeps: Whether it is within the limits already.
    """

    side: int
    divergence: float
    keeps: bool


def sides_of(network: Network, stride: int = 1) -> list[int]:
    """Input sizes that a network can be run at, its own first, then falling.

    Args:
        network: Of square images.
        stride: What a side must be a multiple of.
    """
    ((_, shape),) = network.inputs.items()
    own = shape[2]
    wanted = {round(own * step / STEPS) // stride * stride for step in range(LEAST, STEPS)}
    smaller = sorted((side for side in wanted if own > side > 0), reverse=True)
    return [own, *(side for side in smaller if _can_run(network, side))]


def _can_run(network: Network, side: int) -> bool:
    """Whether it gives what is expected of it: inference of shapes overlooks fixed reshapes."""
    try:
        small = at_side(network, side)
        ((entry, shape),) = small.inputs.items()
        found = open_at_once(small)({entry: np.zeros(shape, np.float32)})
    except DataError:
        return False
    return all(found[name].shape == shape for name, shape in small.outputs.items())


def at_side(network: Network, side: int) -> Network:
    """The same network for images of another size.

    Args:
        network: Of square images.
        side: In pixels.

    Raises:
        DataError: Its shapes do not fit any more, or a row of classes would become another one.
    """
    ((entry, shape),) = network.inputs.items()
    resized = replace(network, inputs={entry: (*shape[:2], side, side)})
    shapes = tensor_shapes(replace(resized, outputs={}))
    outputs = {name: shapes[name] for name in network.outputs}
    made = [shapes[name] for node in network.nodes for name in node.output if name in shapes]
    if any(size < 1 for row in made for size in row):
        raise DataError(f"'{network.name}' is left with nothing of images of {side} px.")
    for name, old in network.outputs.items():
        if len(outputs[name]) != len(old) or (len(old) < 4 and outputs[name] != old):
            raise DataError(f"'{network.name}' gives other outputs for images of {side} px.")
    return replace(resized, outputs=outputs)


def nearest(
    looks: Sequence[Look], found_at: Callable[[Look], T | None], divergence: Callable[[T], float]
) -> T | None:  # fmt: skip
    """What comes nearest to the whole network at any input size.

    The largest size that keeps the limits by itself is tried first, then larger ones of which
    something must be cut, from the nearest. A size of which the whole is farther away already than
    the best so far is left out.

    Args:
        looks: From the largest to the smallest, one at least.
        found_at: The best within the limits at a size; None if there is none.
        divergence: Of what that gives.
    """
    start = next((i for i, look in enumerate(looks) if look.keeps), len(looks) - 1)
    best: T | None = None
    worse = 0
    for look in (looks[start], *reversed(looks[:start][::EVERY])):
        if best is not None and look.divergence >= divergence(best):
            continue
        found = found_at(look)
        if found is not None and (best is None or divergence(found) < divergence(best)):
            best, worse = found, 0
        elif best is not None:
            worse += 1
            if worse == PATIENCE:
                break
    return best
