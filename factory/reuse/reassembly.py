"""New networks from blocks of several donors: joined, and given a classifier in closed form."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ..datasets import Images
from ..graph.evaluate import open_model
from ..graph.network import Array, Network, model_from_network
from ..graph.pointwise import fold_pointwise
from ..graph.postprocess import with_probabilities
from ..graph.segments import chained, inside
from .donor import Donor
from .features import CELLS, cell_means, drawn_cells
from .head import LinearHead, fit_linear_head, head_network, scaled, sharpened
from .pool import Pool, Report, Rows, between
from .search import Way
from .stitch import fit_stitch

SURE = 1.645  # standard errors


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reassembled:
    """A network with a classifier in closed form.

    Attributes:
        way: Its blocks.
        parts: Blocks and stitches in a row, the classifier last.
        head: The classifier.
        right: Whether it is right on each image that neither stitches nor classifier were fitted
            to, (J,); none where there were none.
        sharper: Factor on the logits that makes the labels of these images likeliest; 1 where
            there were none.
        r2: Per stage but the first how much its stitch explains of what the next block was made
            for; None where both blocks are of one donor.
    """

    way: Way
    parts: tuple[Network, ...]
    head: LinearHead
    right: Array
    sharper: float
    r2: tuple[float | None, ...]

    @property
    def judged(self) -> float | None:
        """Accuracy on the images of ``right``, in [0, 1]; None without any. It ranks ways."""
        return float(self.right.mean()) if len(self.right) else None

    @property
    def network(self) -> Network:
        """All parts as one network: from the image as its first donor wants it to logits."""
        return chained("reassembled", self.parts)

    @property
    def new_weights(self) -> frozenset[str]:
        """Names, in the network, of the weights of stitches and classifier."""
        return frozenset(
            inside(position, name)
            for position, part in enumerate(self.parts)
            if part.name in ("stitch", "head")
            for name in part.weights
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Begun:
    """The beginning of a network, and what it makes of every image."""

    parts: tuple[Network, ...]
    made: tuple[Array, ...]
    r2: tuple[float | None, ...]


def reassembled(
    pool: Pool, ways: Sequence[Way], images: Mapping[int, Images], seen: Sequence[Rows], *,
    report: Report = lambda phase, done, total: None,
) -> list[Reassembled]:  # fmt: skip
    """Build ways: each stitch is fitted to what really comes out of everything before it.

    So a stitch takes back what blocks and stitches before it changed. Ways that begin alike share
    the work; what blocks make is kept for one way at a time.

    Args:
        pool: Blocks.
        ways: Which of them.
        images: By input size, the same images, labels included. It is fitted to those of ``seen``,
            which come first; the others judge.
        seen: Per donor the representations of its tensors on the images to fit to.
        report: Called with ("networks", done, total).

    Returns:
        The networks in the order of the ways.
    """
    labels = next(iter(images.values())).labels
    cells = drawn_cells(len(next(iter(seen[0].values()))) // CELLS, 0)
    found: dict[tuple[int, ...], Reassembled] = {}
    begun: list[_Begun] = []
    before: tuple[int, ...] = ()
    for way in sorted(ways, key=lambda one: one.blocks):
        same = 0
        while same < len(begun) and way.blocks[: same + 1] == before[: same + 1]:
            same += 1
        del begun[same:]
        for stage in range(same, len(way.blocks)):
            last = begun[-1] if begun else None
            begun.append(_continued(pool, way.blocks[: stage + 1], last, images, seen, cells))
        before = way.blocks
        found[way.blocks] = _finished(way, begun[-1], labels, len(cells))
        report("networks", len(found), len(ways))
    return [found[way.blocks] for way in ways]


def _continued(
    pool: Pool, blocks: tuple[int, ...], last: _Begun | None, images: Mapping[int, Images],
    seen: Sequence[Rows], cells: Array,
) -> _Begun:  # fmt: skip
    """A beginning with one more block, and the stitch before it where donors differ."""
    stage, donor = len(blocks) - 1, blocks[-1]
    block = pool.blocks[stage][donor]
    if last is None:
        first = pool.places[donor].donor
        pixels = images[first.input_size].pixels
        return _Begun(parts=(block,), made=_run(block, pixels, first.tensor), r2=())
    if blocks[-2] == donor:
        return _Begun(parts=(*last.parts, block), made=_run(block, last.made), r2=(*last.r2, None))
    rows = np.concatenate(
        [cell_means(made[0], mine) for made, mine in zip(last.made, cells, strict=False)]
    )
    (target,) = block.inputs
    stitch = fit_stitch(rows, seen[donor][target])
    network = between(stitch, last.parts[-1], block)
    return _Begun(
        parts=(*last.parts, network, block), made=_run(block, _run(network, last.made)),
        r2=(*last.r2, stitch.r2),
    )  # fmt: skip


def answering(network: Network, donor: Donor) -> Network:
    """A network as an app uses it: from "images", RGB in [0, 1], to probabilities.

    Stitches become part of the convolutions behind them where that is exact and saves work.

    Args:
        network: From the image as the donor wants it to logits.
        donor: Whose first block it begins with.
    """
    whole = fold_pointwise(chained("reassembled", [donor.entry(), network]))
    return with_probabilities(whole)


def with_head_of(made: Reassembled, donor: Donor, images: Images) -> Reassembled:
    """The network with a classifier that is fitted to other images, and as sharp as it should be.

    Args:
        made: The network.
        donor: Whose first block it begins with.
        images: At its input size.
    """
    body = made.parts[:-1]
    found = answers(chained("body", body), donor, list(images.pixels))
    head = fit_linear_head(found, images.labels, int(images.labels.max()) + 1)
    head = scaled(head, made.sharper)
    last = head_network(head, next(iter(body[-1].outputs.values())))
    return replace(made, parts=(*body, last), head=head)


def is_surely_better(one: Reassembled, other: Reassembled) -> bool:
    """Whether a network is right on more of the images that judge, by more than chance explains.

    One-sided at 95 %, by the normal approximation of the paired difference.
    """
    gap = one.right.astype(float) - other.right
    return bool(gap.mean() > SURE * gap.std() / np.sqrt(len(gap)))


def _run(
    network: Network, images: Iterable[Array], prepared: Callable[[Array], Array] = lambda x: x,
    kept: Callable[[Array], Array] = lambda x: x,
) -> tuple[Array, ...]:  # fmt: skip
    """What is kept of the output for every image, computed on all cores; nothing else is held."""
    run = open_model(model_from_network(network))
    ((entry,), (out,)) = network.inputs, network.outputs
    with ThreadPoolExecutor(os.cpu_count()) as workers:  # ONNX Runtime needs no lock of Python's
        return tuple(workers.map(lambda image: kept(run({entry: prepared(image)})[out]), images))


def _finished(way: Way, body: _Begun, labels: Array, fitted: int) -> Reassembled:
    """A classifier for the beginning that is all, fitted to the first images, judged by others."""
    features = np.stack([_means(made[0]) for made in body.made])
    head = fit_linear_head(features[:fitted], labels[:fitted], int(labels.max()) + 1)
    logits, wanted = features[fitted:] @ head.weight.T + head.bias, labels[fitted:]
    last = head_network(head, next(iter(body.parts[-1].outputs.values())))
    return Reassembled(
        way=way, parts=(*body.parts, last), head=head, r2=body.r2,
        right=logits.argmax(1) == wanted,
        sharper=sharpened(logits, wanted)[1] if len(wanted) else 1.0,
    )  # fmt: skip


def _means(row: Array) -> Array:
    return row.mean((1, 2)) if row.ndim == 3 else row


def answers(network: Network, donor: Donor, pixels: Sequence[Array]) -> Array:
    """What a network makes of images, means over space, (N, C).

    Args:
        network: That begins with a block of the donor.
        donor: As whose images it wants them.
        pixels: Images (H, W, 3), uint8 RGB.
    """
    return np.stack(_run(network, pixels, donor.tensor, lambda made: _means(made[0])))
