"""Joining components of trained classifiers: a gate against scaling, branches against padding.

    python benchmarks/combination.py --data DIR [--pair NAME]

Writes ``results/combination.csv``: per pair of components of different classes

* alone: each by itself on images of its own classes, in the mean;
* undivided: a whole network with all of these classes, the better one of the two, where both know
  the same images: the task that is left once they are joined;
* side by side: logits next to each other as they are;
* scale and shift: per component, by maximum likelihood;
* ours: the same with a gate on the features of both, as ``nnfactory combine`` does;
* padding: one network with block-diagonal weights, as Model Disassembling and Assembling
  (arXiv:2203.13453) joins components (only where both have one architecture), with "filters
  scaled" by magnitudes of their maps as the paper says, or "rows scaled" of the last layer by the
  size of the class's mean logit as its code does.

Everything is fitted to 20 training images of a class; accuracy on all classes of both, test images,
with 95 % intervals. Latency of one thread in milliseconds. Components are cut to about half of
their inner channels and compensated ("half"), or made as ``nnfactory disassemble`` does for half of
the latency ("half of the latency"), or whole networks with some of their classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from disassembly import CIFAR, IMAGENETTE, case_of, donor_of, latency_ms, logits_of
from onnx import NodeProto
from results_file import data_option, need_data, write_rows
from sized_components import sized_components
from steady_latency import Beside

from nnfactory.api.combination import answers_of
from nnfactory.api.component_case import Case
from nnfactory.factory.accuracy_measurement import images_at, tensor_from_pixels
from nnfactory.factory.datasets import Images
from nnfactory.factory.graph.network import Array, Network, tensor_shapes
from nnfactory.factory.graph.postprocess import with_probabilities
from nnfactory.factory.graph.repeats import without_repeats
from nnfactory.factory.metrics import proportion_interval
from nnfactory.factory.reuse.combination import branch_of, calibrate, combined
from nnfactory.factory.reuse.disassembly.compensation import compensated
from nnfactory.factory.reuse.disassembly.families import narrowed
from nnfactory.factory.reuse.disassembly.kinds import tensors_of
from nnfactory.factory.reuse.disassembly.reconstruction import losses_of

FIRST, REST = (0, 1, 2), tuple(range(3, 10))
PAIRS = {
    "resnet8 0-2 + resnet8 3-9, half": (
        ("resnet8", CIFAR, FIRST), ("resnet8", CIFAR, REST), "half of the channels",
    ),
    "resnet20 0-2 + resnet20 3-9, half of the latency": (
        ("resnet20", CIFAR, FIRST), ("resnet20", CIFAR, REST), "half of the latency",
    ),
    "resnet20 0-2 + resnet56 3-9": (("resnet20", CIFAR, FIRST), ("resnet56", CIFAR, REST), ""),
    "resnet20 cifar 0-2 + mobilenet-v2 imagenette 0-2": (
        ("resnet20", CIFAR, FIRST), ("mobilenet-v2", IMAGENETTE, FIRST), "",
    ),
    "resnet8 cifar 3-9 + resnet18 imagenette 3-9": (
        ("resnet8", CIFAR, REST), ("imagenet-resnet18", IMAGENETTE, REST), "",
    ),
}  # fmt: skip
EACH, TESTED = 20, 1500


@click.command()
@data_option
@click.option("--pair", "names", multiple=True, type=click.Choice(list(PAIRS)))
def main(data_dir: Path, names: tuple[str, ...]) -> None:
    """Compare ways of joining components."""
    need_data(data_dir)
    for name in names or PAIRS:
        rows = []
        for row in _rows(data_dir, name):
            rows.append({"pair": name, **row})
            click.echo("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
        click.echo(write_rows("combination", rows, replace=("pair",)))


@dataclass(frozen=True, eq=False)
class Joint:
    """Components, and images of all classes in one label order."""

    networks: list[Network]  # from images in [0, 1] to logits
    sizes: list[int]
    fitting: list[Images]  # of every component's classes, labels of the whole
    testing: list[Images]

    def labels(self, of: Sequence[Images]) -> Array:
        """Of all images in turn."""
        return np.concatenate([images.labels for images in of])

    def tensors(self, of: Sequence[Images], size: int) -> list[Array]:
        """All images in turn at a size."""
        resized = [images_at(images, size) for images in of]
        return [tensor_from_pixels(pixels[None]) for part in resized for pixels in part.pixels]


def _rows(data_dir: Path, name: str) -> Iterator[dict[str, object]]:
    first, second, cut_to = PAIRS[name]
    joint = _joint(data_dir, (first, second), cut_to)
    side, truth = max(joint.sizes), joint.labels(joint.testing)
    shown, given = joint.tensors(joint.testing, side), joint.labels(joint.fitting)
    alone = []
    start = 0
    for network, size, images in zip(joint.networks, joint.sizes, joint.testing, strict=True):
        found = logits_of(network, joint.tensors([images], size)).argmax(1)
        alone.append(found == images.labels - start)
        start += int(next(iter(network.outputs.values()))[1])
    mean = float(np.mean([right.mean() for right in alone]))
    yield _row("alone", np.concatenate(alone), "") | {"accuracy": round(mean, 4)}
    if first[1] == second[1]:
        yield _undivided(data_dir, joint, first[1], {first[0], second[0]})
    branches = [branch_of(with_probabilities(network)) for network in joint.networks]
    pixels = [
        np.concatenate([images_at(images, size).pixels for images in joint.fitting])
        for size in joint.sizes
    ]
    rows = [answers_of(branch, mine) for branch, mine in zip(branches, pixels, strict=True)]
    features, logits = [row[0] for row in rows], [row[1] for row in rows]
    ours = calibrate(features, logits, given)
    blind = calibrate([np.zeros_like(rows) for rows in features], logits, given)
    none = replace(blind, scales=(1.0, 1.0), shifts=(0.0, 0.0), gate=0.0)
    for way, calibration in (
        ("side by side", none), ("scale and shift", blind), ("ours", ours)
    ):  # fmt: skip
        network = without_repeats(combined(branches, calibration))
        right = logits_of(network, shown).argmax(1) == truth
        yield _row(way, right, round(latency_ms(network), 4))
    if cut_to == "half of the channels":
        for way, network in _padded(joint, side):
            right = logits_of(network, shown).argmax(1) == truth
            yield _row(way, right, round(latency_ms(network), 4))


def _row(way: str, right: Array, latency: object) -> dict[str, object]:
    interval = proportion_interval(int(right.sum()), len(right))
    return {
        "way": way, "accuracy": round(float(right.mean()), 4), "low": round(interval.low, 4),
        "high": round(interval.high, 4), "images": len(right), "latency_ms": latency,
    }  # fmt: skip


def _undivided(
    data_dir: Path, joint: Joint, folder: str, names: Collection[str]
) -> dict[str, object]:
    """The whole network that does better on all classes of both."""
    rows, truth = [], joint.labels(joint.testing)
    for name in sorted(names):
        case = case_of(data_dir, donor_of(data_dir, name), folder, (*FIRST, *REST))
        found = logits_of(case.anatomy.network, joint.tensors(joint.testing, case.size)).argmax(1)
        rows.append(_row("undivided", found == truth, round(latency_ms(case.anatomy.network), 4)))
    return max(rows, key=lambda row: float(str(row["accuracy"])))


def _joint(data_dir: Path, parts, cut_to: str) -> Joint:
    networks, sizes, fitting, testing, start = [], [], [], [], 0
    for name, folder, classes in parts:
        case = case_of(data_dir, donor_of(data_dir, name), folder, classes)
        judging, test = case.judging, case.measuring
        network = case.anatomy.network
        if cut_to == "half of the channels":
            network = _halved(case)
        elif cut_to:
            clock = Beside(network)
            found, _ = sized_components(case, clock.whole_ms / 2, clock)
            assert found is not None
            network = found.made.network
        networks.append(network)
        sizes.append(next(iter(network.inputs.values()))[2])
        chosen = np.concatenate(
            [np.flatnonzero(judging.labels == c)[:EACH] for c in range(len(classes))]
        )
        fitting.append(_shifted(judging.subset(chosen), start))
        testing.append(_shifted(test.subset(np.arange(min(len(test), TESTED))), start))
        start += len(classes)
    return Joint(networks, sizes, fitting, testing)


def _shifted(images: Images, by: int) -> Images:
    return Images(pixels=images.pixels, labels=images.labels + by, boxes=())


def _halved(case: Case) -> Network:
    """Half of every family, compensated: components of one architecture."""
    tensors = tensors_of(case.fitting)
    losses = losses_of(case.anatomy, tensors[:300])
    kept = {
        family.name: np.sort(losses[family.name].order[: len(family.groups) // 2])
        for family in case.anatomy.families
    }
    narrow, channels = narrowed(case.anatomy, kept)
    return compensated(case.anatomy.network, narrow, channels, tensors)


def _padded(joint: Joint, side: int) -> Iterator[tuple[str, Network]]:
    """Block-diagonal networks: as they are, and with both kinds of scaling."""
    yield "padding", block_diagonal(joint.networks)
    pairs = list(zip(joint.networks, joint.fitting, strict=True))
    shown = [joint.tensors([images], side) for images in joint.fitting]
    yield "padding, filters scaled", block_diagonal(_filters_scaled(joint.networks, shown))
    scaled, start = [], 0
    for (network, images), mine in zip(pairs, shown, strict=True):
        found, labels = logits_of(network, mine), images.labels - start
        means = np.array([found[labels == c, c].mean() for c in range(found.shape[1])])
        scaled.append(_times(network, network.nodes[-1], 1 / np.abs(means)))
        start += found.shape[1]
    yield "padding, rows scaled", block_diagonal(scaled)


def _filters_scaled(networks: Sequence[Network], shown: Sequence[list[Array]]) -> list[Network]:
    """Every filter by the mean magnitude of both networks' maps over its own, layer by layer."""
    made = list(networks)
    for place, node in enumerate(networks[0].nodes):
        if node.op_type not in ("Conv", "Gemm"):
            continue
        sizes = []
        for network, images in zip(made, shown, strict=True):
            out = network.nodes[place].output[0]
            tapped = replace(network, outputs={out: tensor_shapes(network)[out]})
            maps = np.abs(logits_of(tapped, images))
            sizes.append(maps.mean(tuple(i for i in range(maps.ndim) if i != 1)))
        mean = float(np.concatenate(sizes).mean())
        made = [
            _times(network, network.nodes[place], mean / np.maximum(size, 1e-6))
            for network, size in zip(made, sizes, strict=True)
        ]
    return made


def _times(network: Network, node: NodeProto, factors: Array) -> Network:
    weights = dict(network.weights)
    for name in node.input[1:]:
        shape = (-1, *[1] * (weights[name].ndim - 1))
        weights[name] = (weights[name] * factors.reshape(shape)).astype(np.float32)
    return replace(network, weights=weights)


def block_diagonal(networks: Sequence[Network]) -> Network:
    """Networks of one architecture as one: filters padded with zeros for the others' inputs."""
    first = networks[0]
    weights: dict[str, Array] = {}
    for place, node in enumerate(first.nodes):
        mine = [network.nodes[place] for network in networks]
        if node.op_type not in ("Conv", "Gemm"):
            weights |= {n: first.weights[n] for n in node.input if n in first.weights}
            continue
        for position in range(1, len(node.input)):
            parts = [n.weights[m.input[position]] for n, m in zip(networks, mine, strict=True)]
            reads_image = parts[0].ndim == 4 and parts[0].shape[1] == 3
            is_stacked = parts[0].ndim == 1 or reads_image
            name = node.input[position]
            weights[name] = np.concatenate(parts) if is_stacked else _diagonal(parts)
    classes = sum(int(next(iter(network.outputs.values()))[1]) for network in networks)
    (out,) = first.outputs
    return replace(first, weights=weights, outputs={out: (1, classes)})


def _diagonal(parts: Sequence[Array]) -> Array:
    rows, columns = (sum(part.shape[axis] for part in parts) for axis in (0, 1))
    whole = np.zeros((rows, columns, *parts[0].shape[2:]), np.float32)
    row = column = 0
    for part in parts:
        whole[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return whole


if __name__ == "__main__":
    main()
