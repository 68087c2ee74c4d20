"""New networks from blocks of several donors: joined, and given a classifier in closed form."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..datasets import Images
from ..graph.evaluate import open_model
from ..graph.network import Array, Network, model_from_network
from ..graph.segments import chained
from .donor import Donor
from .features import representations
from .head import LinearHead, fit_linear_head, head_network
from .pool import Pool, Rows, between
from .search import Way
from .stitch import fit_stitch


def assembled(
    pool: Pool, way: Way, seen: Sequence[Rows] = (), pixels: Sequence[Array] = ()
) -> Network:
    """The body of a way: blocks and stitches in a row, up to the features.

    Without images stitches are those of the pool, fitted to what the donors alone make. With them
    each is fitted anew to what really comes out of the blocks and stitches before it, so that it
    takes back what they changed.

    Args:
        pool: Blocks and stitches.
        way: Which of them.
        seen: Per donor the representations of its tensors on the images.
        pixels: The images, (H, W, 3), uint8 RGB.
    """
    name = "+".join(pool.places[donor].donor.name for donor in way.blocks)
    first = pool.places[way.blocks[0]].donor
    parts = [pool.blocks[0][way.blocks[0]]]
    for stage, (one, other) in enumerate(itertools.pairwise(way.blocks)):
        block = pool.blocks[stage + 1][other]
        if one != other:
            stitch = pool.stitches[stage, one, other]
            if len(pixels):
                (target,) = block.inputs
                made = _made(chained(name, parts), first, pixels)
                stitch = fit_stitch(made, seen[other][target])
            parts.append(between(stitch, parts[-1], block))
        parts.append(block)
    return chained(name, parts)


def _made(body: Network, donor: Donor, pixels: Sequence[Array]) -> Array:
    """Representation rows of what comes out of the beginning of a network."""
    (out,) = body.outputs
    return representations(replace(donor, network=body, labels=()), [out], pixels)[out]


def features_of(body: Network, donor: Donor, pixels: Sequence[Array]) -> Array:
    """Features (N, C) of images, means over space.

    Args:
        body: As :func:`assembled` gives it.
        donor: Whose first block it begins with: images are prepared as that one wants them.
        pixels: Images (H, W, 3), uint8 RGB.
    """
    run = open_model(model_from_network(body))
    ((entry,), (out,)) = body.inputs, body.outputs
    rows = [run({entry: donor.tensor(image)})[out][0] for image in pixels]
    return np.stack([row.mean((1, 2)) if row.ndim == 3 else row for row in rows])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reassembled:
    """A network with a classifier in closed form.

    Attributes:
        way: Its blocks.
        network: Whole.
        head: The classifier.
    """

    way: Way
    network: Network
    head: LinearHead


def with_head(pool: Pool, way: Way, images: Images, seen: Sequence[Rows] = ()) -> Reassembled:
    """Fit the stitches (given representations of the images) and the classifier of a way.

    The ``left_out`` of the classifier ranks ways.
    """
    body = assembled(pool, way, seen, list(images.pixels) if seen else ())
    donor = pool.places[way.blocks[0]].donor
    found = features_of(body, donor, list(images.pixels))
    head = fit_linear_head(found, images.labels, int(images.labels.max()) + 1)
    last = head_network(head, next(iter(body.outputs.values())))
    return Reassembled(way=way, network=chained(body.name, [body, last]), head=head)
