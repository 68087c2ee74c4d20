"""Disassembling trained classifiers: what a component of some classes loses, way by way.

    python benchmarks/disassembly.py --data DIR [--network NAME] [--part PART]

Part "components" writes ``results/disassembly_components.csv``: per network, task and share of the
latency of the whole network (measured here beside it, time of the processor in one thread):

* base: the whole network, all of its classes; masked: its logits masked to the task;
* thresholds: Model Disassembling and Assembling (arXiv:2203.13453) with the thresholds of its code,
  streams kept; "fitted" with our compensation;
* contributions, reconstruction, both: the exact choice under the latency by these values, fitted;
* channels alone: of these three, searched once more, the one that comes nearest to the whole
  network on images that nothing was fitted to, as ``nnfactory disassemble --keep-size`` chooses;
  "unfitted" without compensation;
* images alone: the whole network at the largest input size that keeps the latency, nothing cut;
* ours: the nearest of all input sizes, each cut as far as the latency asks, as ``nnfactory
  disassemble`` chooses; ``side`` is its input size in pixels;
* magnitude, fpgm, random: the same program by the channels' squared weights, by how far their
  filters are from all others of the layer (He et al., "Filter Pruning via Geometric Median",
  arXiv:1811.00250), or by random values;
* uniform width: as large a share of every family as keeps the latency, the channels in the order of
  "both".

The task "all" has every class: there this is compression of a whole network. Two networks of
``cifar_networks.py`` are taken from ``--networks``, where there is one.

Every network is cut within the same measured latency. ``accuracy`` is on test images of the task,
``least_class`` that of its worst class, ``behind`` and its interval (95 %, bootstrap, paired over
images) how far it is behind the masked network. ``other_tasks`` puts the whole network's rows of
as many other classes on the component's features: how much it knows of what it was not cut for.

Part "sizes" measures the last two anew and leaves the other rows as they are.

Part "contributions" writes ``results/disassembly_contributions.csv``: seconds and peak memory of
the contributions of 500 images of ten classes, in a process of its own.
"""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from cifar_networks import FOLDER, MEAN, STD
from paired import behind
from pretrained import Pretrained, pretrained
from reassembly import imported, some_images
from results_file import data_option, need_data, write_rows
from scipy.spatial.distance import cdist
from sized_components import (
    cut,
    search_of,
    sized_components,
    steadily,
    tables,
    uniform_plan,
)
from steady_latency import Beside

from nnfactory.api.component_case import Case
from nnfactory.api.request import silent
from nnfactory.devices.measure import time_runs, warm_up
from nnfactory.devices.runners.onnxruntime import OnnxRuntimeRunner
from nnfactory.factory.accuracy_measurement import images_at, task_images, tensor_from_pixels
from nnfactory.factory.datasets import Images
from nnfactory.factory.graph.foreign import load_foreign
from nnfactory.factory.graph.network import Array, Network, model_from_network
from nnfactory.factory.reuse.disassembly.component import (
    Plan,
    values_of,
)
from nnfactory.factory.reuse.disassembly.contributions import EACH, contributions
from nnfactory.factory.reuse.disassembly.families import anatomy_of, narrowed
from nnfactory.factory.reuse.disassembly.kinds import Classification, logits_of, tensors_of
from nnfactory.factory.reuse.disassembly.reconstruction import Losses
from nnfactory.factory.reuse.disassembly.relevance import located
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.donor_slots import task_network
from nnfactory.factory.reuse.own_images import TwoParts, turns

CIFAR, IMAGENETTE = "cifar10_jpeg", "imagenette128_jpeg"
NETWORKS = {
    "resnet8": CIFAR, "resnet20": CIFAR, "resnet56": CIFAR,
    "vgg16-quarter": CIFAR, "googlenet-small": CIFAR,
    "imagenet-resnet18": IMAGENETTE, "mobilenet-v2": IMAGENETTE,
}  # fmt: skip
IMAGENETTE_ROWS = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)  # of the 1000 ImageNet classes
OWN = ("vgg16-quarter", "googlenet-small")  # trained by cifar_networks.py
TASKS = {
    "0-2": (0, 1, 2), "3-9": tuple(range(3, 10)), "random": (1, 5, 8), "animals": (3, 5, 7),
    "all": tuple(range(10)),
}  # fmt: skip
SHARES = (0.5, 0.25)
FITTED, JUDGING, TESTED, READ = 1000, 1000, 1500, 12000  # images
PARTS = ("components", "sizes", "contributions")
RUNS = 100


@click.command()
@data_option
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)))
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)))
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS))
@click.option("--networks", "own_dir", type=click.Path(path_type=Path), default=FOLDER,
              help="What cifar_networks.py wrote.")  # fmt: skip
def main(
    data_dir: Path, names: tuple[str, ...], tasks: tuple[str, ...], parts: tuple[str, ...],
    own_dir: Path,
) -> None:  # fmt: skip
    """Compare ways of cutting components out of trained networks."""
    need_data(data_dir)
    if "contributions" in (parts or PARTS):
        rows = [_contributions(data_dir)]
        click.echo(write_rows("disassembly_contributions", rows))
    if parts == ("contributions",):
        return
    is_all = not parts or "components" in parts
    key = ("network", "task") if is_all else ("network", "task", "way", "share")
    for name in names or NETWORKS:
        if name in OWN and not (own_dir / f"{name}.onnx").is_file():
            click.echo(f"{name} is skipped: cifar_networks.py has not written it to {own_dir}.")
            continue
        donor = donor_of(data_dir, name, own_dir)
        for task in tasks or TASKS:
            rows = []
            for row in _components(data_dir, donor, task, is_all=is_all):
                rows.append(row)
                click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
            click.echo(write_rows("disassembly_components", rows, replace=key))


def donor_of(data_dir: Path, name: str, own_dir: Path = FOLDER) -> Donor:
    """A network with normalization folded, labelled with the classes of its images by number."""
    if name in OWN:
        network = load_foreign(own_dir / f"{name}.onnx")
        one = Pretrained(network, MEAN, STD, "Apache-2.0")
    else:
        one = pretrained(data_dir, name)
        network = imported(one.network)
    classes = next(iter(network.outputs.values()))[1]
    labels = [f"other {i}" for i in range(classes)]
    for number, row in enumerate(range(10) if classes == 10 else IMAGENETTE_ROWS):
        labels[row] = str(number)
    return Donor(
        name=name, network=network, mean=one.mean, std=one.std, colors=one.colors,
        labels=tuple(labels), license=one.licence,
    )  # fmt: skip


def case_of(
    data_dir: Path, donor: Donor, folder: str, classes: Sequence[int], *, fitting: int = FITTED,
    judging: int = JUDGING,
) -> Case:  # fmt: skip
    """A network, a task and images: training images to fit and to judge, test images to measure."""
    size = donor.input_size
    last = "test.npz" if (data_dir / folder / "test.npz").is_file() else "val.npz"
    train, test = (
        images_at(task_images(some_images(data_dir / folder / file, READ), classes), size)
        for file in ("train.npz", last)
    )
    order = np.argsort(turns(train.labels, 0), kind="stable")[: fitting + judging]
    train = train.subset(order)
    images = TwoParts(
        name=folder, classes=tuple(map(str, classes)), training={size: train},
        measuring={size: test.subset(np.arange(min(len(test), TESTED)))},
        fitted=np.arange(len(train) - judging),
        judging=np.arange(len(train) - judging, len(train)),
        digest=hashlib.sha256(train.pixels.tobytes()).hexdigest(),
    )  # fmt: skip
    network = task_network(donor, donor.outputs_of(images.classes))
    return Case(donor=donor, anatomy=anatomy_of(network), kind=Classification(), images=images)


def latency_ms(network: Network) -> float:
    """Median time of the processor in one thread, in milliseconds: others may be at work."""
    with OnnxRuntimeRunner(model_from_network(network).SerializeToString()) as runner:
        warm_up(runner.run, 0.05)
        return float(np.median(time_runs(runner.run, RUNS).cpu_ms))


@dataclass(frozen=True, eq=False)
class Seen:
    """What every way of cutting a task is held against."""

    case: Case
    masked: Array  # whether the masked network is right, per test image
    clock: Beside
    others: tuple[Network, Images] | None  # head of other classes, and images of them

    def right(self, network: Network) -> Array:
        """Whether a network of any input size is right, per test image."""
        found = logits_of(network, _seen_by(network, self.case.measuring)).argmax(1)
        return np.asarray(found == self.case.measuring.labels)


def _seen_by(network: Network, images: Images) -> list[Array]:
    ((_, shape),) = network.inputs.items()
    return tensors_of(images_at(images, shape[2]))


def _components(
    data_dir: Path, donor: Donor, task: str, *, is_all: bool
) -> Iterator[dict[str, object]]:
    classes = TASKS[task]
    case = case_of(data_dir, donor, NETWORKS[donor.name], classes)
    seen = _seen(data_dir, case, classes)
    clock = seen.clock
    whole = logits_of(_all_classes(donor), tensors_of(case.measuring))
    rows = [donor.labels.index(str(c)) for c in classes]
    told = np.array(rows)[case.measuring.labels]
    fixed = {"network": donor.name, "task": task, "classes": len(classes)}

    def row(
        way: str, share: object, right: Array, ratio: float, other: object,
        side: int = donor.input_size,
    ) -> dict[str, object]:  # fmt: skip
        labels = case.measuring.labels
        return fixed | {
            "way": way, "share": share, "side": side, "latency": round(ratio, 3),
            "accuracy": round(float(right.mean()), 4), "images": len(right),
            **behind(seen.masked, right),
            "least_class": round(min(float(right[labels == c].mean()) for c in set(labels)), 4),
            "other_tasks": other, "divergence": "", "seconds": "",
        }  # fmt: skip

    for limit in SHARES:
        began = time.perf_counter()
        found = sized_components(case, limit * clock.whole_ms, clock)
        for way, one in zip(("ours", "images alone"), found, strict=True):
            if one is not None:
                network = one.made.network
                ratio = steadily(clock, network) / clock.whole_ms
                other = _other(seen, network)
                yield row(way, limit, seen.right(network), ratio, other, one.case.size) | {
                    "divergence": round(one.made.judged.divergence, 4),
                    "seconds": round(time.perf_counter() - began, 1) if way == "ours" else "",
                }
    if not is_all:
        return
    yield row("base", "", whole.argmax(1) == told, 1.0, "")
    yield row("masked", "", seen.masked, 1.0, _other(seen, case.anatomy.network))
    for way, share, plan, is_fitted in _plans(seen):
        network = plan.network
        began = time.perf_counter()
        if is_fitted:
            made = case.made(plan, silent)
            network = made.network
        ratio = steadily(clock, network) / clock.whole_ms
        yield row(way, share, seen.right(network), ratio, _other(seen, network)) | {
            "divergence": round(made.judged.divergence, 4) if is_fitted else "",
            "seconds": round(time.perf_counter() - began, 1),
        }


def _seen(data_dir: Path, case: Case, classes: Sequence[int]) -> Seen:
    network = case.anatomy.network
    logits = logits_of(network, tensors_of(case.measuring))
    right = logits.argmax(1) == case.measuring.labels
    rest = [c for c in range(10) if c not in classes][: len(classes)]
    others = None
    if len(rest) > 1:
        other = case_of(data_dir, case.donor, case.images.name, rest)
        some = other.measuring.subset(np.arange(min(500, len(other.measuring))))
        others = other.anatomy.network, some
    return Seen(case=case, masked=right, clock=Beside(network), others=others)


def _all_classes(donor: Donor) -> Network:
    return task_network(donor, range(len(donor.labels)))


def _other(seen: Seen, network: Network) -> object:
    """Accuracy on other classes with their rows of the whole network's head."""
    if seen.others is None:
        return ""
    head, images = seen.others
    last = network.nodes[-1]
    weights = {**network.weights, **{name: head.weights[name] for name in last.input[1:]}}
    if weights[last.input[1]].shape[1] != network.weights[last.input[1]].shape[1]:
        return ""  # the features before the head were cut, too
    (out,) = network.outputs
    swapped = replace(network, weights=weights, outputs={out: (1, int(images.labels.max()) + 1)})
    found = logits_of(swapped, _seen_by(network, images)).argmax(1)
    return round(float((found == images.labels).mean()), 4)


def _plans(seen: Seen) -> Iterator[tuple[str, object, Plan, bool]]:
    """All ways of cutting: name, share of the latency, plan, and whether it is fitted."""
    case, anatomy, clock = seen.case, seen.case.anatomy, seen.clock
    found = contributions(anatomy, case.kind.shown(anatomy.network, case.fitting, EACH))
    kept = located(anatomy, found, case.kind.ends(anatomy.network))
    network, channels = narrowed(anatomy, kept)
    by_thresholds = Plan(
        values="thresholds", kept=kept, network=network, channels=channels, choice=None
    )
    yield "thresholds", "", by_thresholds, False
    yield "thresholds, fitted", "", by_thresholds, True
    costs, ours = tables(case, clock), values_of(anatomy, case.kind, case.fitting)
    for share in SHARES:
        limit = share * clock.whole_ms
        search = search_of(case, costs, limit, clock)
        for way, losses in (ours | by_weights(case)).items():
            plan = search.plan(way, losses)
            if plan is None:
                click.echo(f"{way}: nothing keeps {limit:.3f} ms")
                continue
            yield way if way in ours else f"{way}, fitted", share, plan, True
            if way not in ours:
                yield way, share, plan, False
        best = cut(case, search, ours)
        if best is not None:
            yield "channels alone", share, best.plan, True
            yield "channels alone, unfitted", share, best.plan, False
        uniform = uniform_plan(case, ours["both"], limit, clock)
        if uniform is not None:
            yield "uniform width, fitted", share, uniform, True


def by_weights(case: Case) -> dict[str, dict[str, Losses]]:
    """Values of other methods, which look at no image."""
    return {
        "magnitude": _by_filters(case, lambda rows: (rows**2).sum(1)),
        "fpgm": _by_filters(case, lambda rows: cdist(rows, rows).sum(1)),
        "random": _random(case),
    }


def _by_filters(case: Case, worth: Callable[[Array], Array]) -> dict[str, Losses]:
    """Share of a family's worth that is gone, by the weights that make its channels."""
    found = {}
    for family in case.anatomy.families:
        weight = case.anatomy.network.weights[case.anatomy.node(family.maker).input[1]]
        groups = case.anatomy.found.weights[case.anatomy.node(family.maker).input[1], 0]
        place = {int(group): i for i, group in enumerate(groups)}
        rows = worth(weight.reshape(len(weight), -1).astype(np.float64))
        found[family.name] = _shares(rows[[place[group] for group in family.groups]])
    return found


def _random(case: Case) -> dict[str, Losses]:
    rng = np.random.default_rng(0)
    return {f.name: _shares(rng.random(len(f.groups))) for f in case.anatomy.families}


def _shares(worth: Array) -> Losses:
    order = np.argsort(-worth, kind="stable")
    kept = np.concatenate([[0.0], np.cumsum(worth[order])]) / worth.sum()
    return Losses(order=order, lost=np.maximum(0, 1 - kept))


def _contributions(data_dir: Path) -> dict[str, object]:
    """Seconds and peak memory, in a process that does nothing else."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(data_dir)], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    seconds, before, after = map(float, done.stdout.split())
    return {
        "network": "resnet56", "classes": 10, "images": 500, "seconds": round(seconds, 1),
        "peak_mib": round(after), "before_mib": round(before),
    }  # fmt: skip


def _child(data_dir: Path) -> None:
    donor = donor_of(data_dir, "resnet56")
    network = task_network(donor, range(10))
    images = images_at(some_images(data_dir / CIFAR / "train.npz", 500), 32)
    shown = [
        [tensor_from_pixels(p[None]) for p in images.pixels[images.labels == c]] for c in range(10)
    ]
    anatomy = anatomy_of(network)
    before, began = _peak_mib(), time.perf_counter()
    contributions(anatomy, shown)
    click.echo(f"{time.perf_counter() - began} {before} {_peak_mib()}")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(Path(sys.argv[2]))
    else:
        main()
