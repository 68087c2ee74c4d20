"""New classes from a few example images: accuracy on held-out images, and what is out of scope.

    python benchmarks/few_shot.py --data DIR [--library NAME] [--tasks N]

Writes ``results/few_shot.csv``. Five-way tasks of random classes of CIFAR-10-JPEG and Imagenette
(without its gas pump, which the library knows), 5, 20 and 50 examples of each class from the
training images, at most 200 held-out images of each class from the test images. Methods:

* full: the full network with the layer of the classes in closed form (ridge regression);
* full, gradient: the full network with that layer trained by gradient descent (cross entropy, L2);
* 0.5 and 0.25: what ``nnfactory build --examples`` makes at half and a quarter of the full
  network's measured latency.

``difference`` is paired with "full" over tasks, intervals are Student's over tasks (95 %).
``left_out`` is the mean left-out accuracy that building reports, ``covered`` how often its
90 % interval holds the accuracy on the held-out images. The rows "scope" say which share of
classes, of 20 examples each, is refused without ``--allow-novel``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from claims import mean_interval
from equal_latency import Case, at_latency, chosen, measure, size_options
from results_file import data_option, need_data, write_rows

from nnfactory.devices.latency_table import network_of_counts
from nnfactory.factory.accuracy_measurement import hits, images_at
from nnfactory.factory.assembler.footprint import full_counts
from nnfactory.factory.datasets import Images, load_dataset, read_pack
from nnfactory.factory.datasets.examples import Examples
from nnfactory.factory.errors import DataError
from nnfactory.factory.features import features, full_network
from nnfactory.factory.graph.network import Array
from nnfactory.factory.library.library import CLASSES, ModuleLibrary
from nnfactory.factory.library.store import default_library, open_library
from nnfactory.factory.linker import link
from nnfactory.factory.metrics import proportion_interval
from nnfactory.factory.new_classes import (
    check_scope,
    fitted_to_plan,
    library_of_examples,
    task_of_examples,
)
from nnfactory.factory.schema import Interval

SHOTS = (5, 20, 50)
SHARES = (0.5, 0.25)
WAYS = 5
HELD_OUT = 200  # images of a class
KNOWN = {"imagenette128_jpeg": {7}}  # classes that the library was trained on
SETS = {"cifar10_jpeg": ("train", "test"), "imagenette128_jpeg": ("train", "val")}


@click.command()
@data_option
@click.option("--library", "name", help="Library; the default one for classification otherwise.")
@click.option("--tasks", default=20, show_default=True, help="Tasks per data set and shots.")
def main(data_dir: Path, name: str | None, tasks: int) -> None:
    """Measure building from examples."""
    need_data(data_dir)
    library = open_library(name) if name else default_library("cls")
    rows: list[dict[str, object]] = []
    for source, (train, test) in SETS.items():
        pools = [_pool(data_dir / source / f"{part}.npz", library) for part in (train, test)]
        for shots in SHOTS:
            found = list(_tasks(library, pools, source, shots, tasks))
            rows += _summary(source, shots, found)
            for row in rows[-len(found[0]) :]:
                click.echo("  ".join(f"{k} {v}" for k, v in row.items() if v != ""))
    rows += [_scope_row(library, what, pool) for what, pool in _strangers(library, data_dir)]
    for row in rows[-4:]:
        click.echo(f"{row['data']}: {row['value']} out of scope of {row['tasks']} classes")
    click.echo(write_rows("few_shot", rows))


def _pool(path: Path, library: ModuleLibrary) -> Images:
    """All images of a pack at the library's largest input size."""
    labels = np.load(path, allow_pickle=False)["label"].astype(np.int64)
    return images_at(Images(pixels=read_pack(path), labels=labels, boxes=()), library.input_size)


def _examples(library: ModuleLibrary, images: Images, names: tuple[str, ...]) -> Examples:
    return Examples(
        classes=names, labels=images.labels, digest="benchmark",
        pixels={size: images_at(images, size).pixels for size in library.input_sizes},
    )  # fmt: skip


def _drawn(pool: Images, classes: Array, each: int, rng: np.random.Generator) -> Images:
    """Up to so many images of every class, labelled by its position."""
    rows = [rng.permutation(np.flatnonzero(pool.labels == c))[:each] for c in classes]
    labels = np.repeat(np.arange(len(classes)), [len(row) for row in rows])
    return replace(pool.subset(np.concatenate(rows)), labels=labels)


def _tasks(
    library: ModuleLibrary, pools: list[Images], source: str, shots: int, tasks: int
) -> Iterator[dict[str, dict[str, float]]]:
    """Per task and method accuracy and latency, and what leaving out says."""
    train, test = pools
    known = [c for c in np.unique(train.labels) if c not in KNOWN.get(source, set())]
    tables = size_options(library)
    for number in range(tasks):
        rng = np.random.default_rng([number, shots])
        classes = rng.choice(known, WAYS, replace=False)
        given = _drawn(train, classes, shots, rng)
        held_out = _drawn(test, classes, HELD_OUT, rng)
        examples = _examples(library, given, tuple(map(str, classes)))
        made = library_of_examples(library, examples, allow_novel=True)
        options = tuple(replace(o, library=made.at(o.library.input_size)) for o in tables)
        task = task_of_examples(made, examples)
        case = Case(made, task, options, held_out, given)
        yield _methods(case, library, examples)


def _methods(case: Case, library: ModuleLibrary, examples: Examples) -> dict[str, dict[str, float]]:
    counts = {**full_counts(case.library), CLASSES: len(examples.classes)}
    whole_ms = measure(case, network_of_counts(case.library, counts))
    network = full_network(library)
    seen, _ = features(network, examples.pixels[library.input_size])
    unseen, _ = features(network, case.test.pixels)
    weight, bias = _gradient_layer(seen, examples.labels, len(examples.classes), library)
    by_gradient = (unseen @ weight + bias).argmax(1) == case.test.labels
    layer = case.library.network.weights  # fitted to the full network
    rows = [layer[owned.tensor] for owned in library.class_slot.modules[0].owns]
    closed = (unseen @ rows[0].T + rows[1]).argmax(1) == case.test.labels
    answers = {
        "full": {"value": closed.mean(), "ms": whole_ms},
        "full, gradient": {"value": by_gradient.mean(), "ms": whole_ms},
    }
    for share in SHARES:
        plan, ms = at_latency(case, lambda limit: chosen(case, limit), share * whole_ms)
        fitted, left_out = fitted_to_plan(case.library, plan, examples)
        pixels = replace(case.test, pixels=images_at(case.test, plan.input_size).pixels)
        value = hits(link(fitted, plan).network, pixels).mean()
        answers[f"{share:g}"] = {
            "value": value, "ms": ms, "left_out": left_out.value,
            "covered": float(left_out.low <= value <= left_out.high),
        }  # fmt: skip
    return answers


def _gradient_layer(
    seen: Array, labels: Array, classes: int, library: ModuleLibrary, steps: int = 300
) -> tuple[Array, Array]:
    """Weights (C, K) and biases (K,) by gradient descent on the cross entropy, with L2."""
    assert library.prototypes is not None
    spread, center = library.prototypes.spread, seen.mean(0)
    x, targets = (seen - center) / spread, np.eye(classes)[labels]
    weight, bias = np.zeros((x.shape[1], classes)), np.zeros(classes)
    rate, decay = 2 * len(x) / np.linalg.norm(x, 2) ** 2, 10 / len(x)
    for _ in range(steps):
        scores = x @ weight + bias
        shares = np.exp(scores - scores.max(1, keepdims=True))
        gap = (shares / shares.sum(1, keepdims=True) - targets) / len(x)
        weight -= rate * (x.T @ gap + decay * weight)
        bias -= rate * gap.sum(0)
    return weight / spread[:, None], bias - (center / spread) @ weight


def _summary(
    source: str, shots: int, found: list[dict[str, dict[str, float]]]
) -> list[dict[str, object]]:
    rows = []
    for method in found[0]:
        mine, full = (
            np.array([task[name]["value"] for task in found]) for name in (method, "full")
        )
        value, gap = mean_interval(mine), mean_interval(mine - full)
        extra = {
            name: round(float(np.mean([task[method][name] for task in found])), 4)
            if name in found[0][method]
            else ""
            for name in ("left_out", "covered", "ms")
        }
        rows.append(_row(source, shots, method, len(found), value, gap, extra))
    return rows


def _row(
    source: str, shots: int | str, method: str, tasks: int, value: Interval,
    gap: Interval | None, extra: Mapping[str, object],
) -> dict[str, object]:  # fmt: skip
    ends = {} if gap is None else {"difference": gap.value, "d_low": gap.low, "d_high": gap.high}
    return {
        "data": source, "shots": shots, "method": method, "tasks": tasks,
        "value": round(value.value, 4), "low": round(value.low, 4), "high": round(value.high, 4),
        **{n: round(ends[n], 4) if n in ends else "" for n in ("difference", "d_low", "d_high")},
        "left_out": "", "covered": "", "ms": "", **extra,
    }  # fmt: skip


def _strangers(library: ModuleLibrary, data_dir: Path) -> Iterator[tuple[str, Images]]:
    """Images by class that the library may or may not be good for, at its largest size."""
    for source, (_, test) in SETS.items():
        yield source, _pool(data_dir / source / f"{test}.npz", library)
    detection = load_dataset("det", data_dir / "fod_a_subset", splits=("train",)).train
    yield "fod_a_subset, objects cut out", _cut_out(detection, library.input_size)
    rng = np.random.default_rng(0)
    side = library.input_size
    noise = rng.integers(0, 256, (400, side, side, 3), dtype=np.uint8)
    yield "noise", Images(pixels=noise, labels=np.arange(400) % 10, boxes=())


def _cut_out(images: Images, side: int) -> Images:
    """The objects of a detection set as squares around their boxes."""
    pixels, labels = [], []
    for image, boxes in zip(images.pixels, images.boxes, strict=True):
        for label, x1, y1, x2, y2 in boxes.astype(int):
            half = min(max(8, (max(x2 - x1, y2 - y1) + 1) // 2), len(image) // 2)
            top, left = (
                min(max(0, middle // 2 - half), len(image) - 2 * half)
                for middle in (y1 + y2, x1 + x2)
            )
            square = image[top : top + 2 * half, left : left + 2 * half]
            one = Images(pixels=square[None], labels=np.zeros(1, np.int64), boxes=())
            pixels.append(images_at(one, side).pixels[0])
            labels.append(label)
    return Images(pixels=np.stack(pixels), labels=np.array(labels, np.int64), boxes=())


def _scope_row(library: ModuleLibrary, what: str, pool: Images) -> dict[str, object]:
    """Share of the classes that are refused, by 20 examples of each."""
    rng, refused, classes = np.random.default_rng(0), 0, np.unique(pool.labels)
    for label in classes:
        given = _drawn(pool, np.array([label]), 20, rng)
        seen, _ = features(full_network(library), given.pixels)
        examples = Examples(classes=("x",), labels=given.labels, pixels={}, digest="")
        try:
            check_scope(library, seen, examples)
        except DataError:
            refused += 1
    interval = proportion_interval(refused, len(classes))
    return _row(what, "", "scope", len(classes), interval, None, {})


if __name__ == "__main__":
    main()
