"""Toy libraries, a toy latency table, an empty folder and the command line, for all tests."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import onnx
import pretrained
import pytest
from click.testing import CliRunner, Result
from colored_photos import write_photos
from fake_host import FakeHost

import nnfactory  # noqa: F401  # whoever imports lazily later gets this very copy
from nnfactory import api
from nnfactory.cli import cli
from nnfactory.devices import latency_table as tables_of_machines
from nnfactory.devices import measure
from nnfactory.factory import features, schema
from nnfactory.factory.assembler import accuracy, accuracy_fit, strength
from nnfactory.factory.datasets import Images
from nnfactory.factory.graph import cut, normalization
from nnfactory.factory.graph.network import model_from_network
from nnfactory.factory.library import library, store, writer
from nnfactory.factory.sampling import sample_widths

ROOT = Path(__file__).resolve().parents[1]
SIDES = (32, 16)
SIDE = SIDES[0]
CLASSES = {
    "cls": (
        "goldfish, Carassius auratus",
        "European fire salamander, Salamandra salamandra",
        "bullfrog, Rana catesbeiana",
        "tailed frog, bell toad",
        "American alligator, Alligator mississipiensis",
        "boa constrictor, Constrictor constrictor",
    ),
    "det": ("Bolt", "Nut", "Wrench", "Metal part"),
}
WORDNET = ("n01443537", "n01629819", "n01641577", "n01644900", "n01698640", "n01742172")

hypothesis.settings.register_profile("suite", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("suite")


def _pretty(self, printer, cycle) -> None:
    printer.text(f"<{self.name} at {self.input_size} px>")


# A failing property shows its arguments: field by field, a library would keep it busy for minutes.
library.ModuleLibrary._repr_pretty_ = _pretty  # type: ignore[attr-defined]


def architecture(kind: str, **changes: object):
    """A small supernet: 4 blocks, and two heads for detection."""
    from nnfactory.factory.supernet.recipe import Architecture, Stage

    heads = {"neck_channels": 16, "head_hidden": 16, "head_group": 8, "head_strides": (2, 4)}
    shape: dict = {
        "kind": kind,
        "input_size": SIDE,
        "input_sizes": SIDES,
        "mean": (0.5, 0.45, 0.4),
        "std": (0.25, 0.3, 0.2),
        "stem_channels": 8,
        "stem_stride": 1,
        "stages": (
            Stage(channels=8, hidden=32, group=8, blocks=2),
            Stage(channels=16, hidden=48, group=8, blocks=2),
        ),
        "classes": len(CLASSES[kind]),
        **(heads if kind == "det" else {}),
    }
    return Architecture(**(shape | changes))


def recipe(kind: str, **training: object):
    """A recipe of the small supernet: two epochs in batches of 8."""
    from nnfactory.factory.supernet.recipe import Recipe, Training

    settings: dict = {"epochs": 2, "batch": 8, "lr": 2e-3}
    return Recipe(
        name=f"toy-{kind}",
        title=f"Toy modules for '{kind}'",
        architecture=architecture(kind),
        training=Training(**(settings | training)),
        data={"folder": "toy", "name": "Noise", "origin": "numpy", "license": "CC0"},
        weights_license="CC0",
    )


def random_supernet(kind: str, seed: int = 0, **changes: object):
    """An untrained supernet in evaluation mode whose normalization is not trivial."""
    torch = pytest.importorskip("torch")
    from nnfactory.factory.supernet.network import supernet_from_architecture

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = supernet_from_architecture(architecture(kind, **changes))
    generator = torch.Generator().manual_seed(seed)

    def uniform(like, low: float, high: float):
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.copy_(uniform(part.weight, 0.5, 1.5))
                part.bias.copy_(uniform(part.bias, -0.3, 0.3))
                part.running_mean.copy_(uniform(part.running_mean, -0.3, 0.3))
                part.running_var.copy_(uniform(part.running_var, 0.5, 1.5))
    return network.eval()


def numpy_weights(network) -> dict[str, np.ndarray]:
    """Parameters and buffers of a torch network, copied."""
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def _statistics(network, slots, plans: int, side: int) -> library.Statistics:
    rng = np.random.default_rng(5)
    blocks = [slot for slot in slots if slot.kind == "block"]
    full, empty = [s.groups for s in blocks], [s.min_groups for s in blocks]
    counts = [tuple(full), tuple(empty), *(sample_widths(full, empty, rng) for _ in range(plans))]
    rows = []
    for widths in counts:
        active = {slot.name: range(w) for slot, w in zip(blocks, widths, strict=True)}
        images = rng.random((4, 3, side, side), dtype=np.float32)
        rows.append(normalization.estimate_moments(cut.mask(network, slots, active), images))
    return library.Statistics(
        counts=np.array(counts, np.int64),
        mean={node: np.stack([row[node][0] for row in rows]) for node in rows[0]},
        variance={node: np.stack([row[node][1] for row in rows]) for node in rows[0]},
    )


def synthetic_pairs(n: int, seed: int, classes: int, blocks: int = 4) -> list[accuracy_fit.Pair]:
    """Measured networks as they could be: accuracy rises with the value of the plan."""
    rng = np.random.default_rng(seed)
    pairs = []
    for number in range(n):
        size = int(rng.integers(2, classes + 1))
        share, strength = float(rng.uniform(0.2, 1.0)), float(rng.uniform(0.4, 0.8))
        odds = accuracy.logit(strength) - 2.0 * (1 - share) - 0.3 * np.log(size)
        odds += rng.normal(0.0, 0.25)
        pairs.append(
            accuracy_fit.Pair(
                classes=tuple(range(size)),
                counts=(1,) * blocks,
                share=share,
                strength=strength,
                accuracy=float(1 / (1 + np.exp(-odds))),
                n=500,
                origin="optimized" if number % 2 else "random",
            )
        )
    return pairs


def _class_pairs(pairs: list[accuracy_fit.Pair]) -> list[accuracy_fit.ClassPair]:
    """Every class as good as its network, give or take."""
    rng = np.random.default_rng(3)
    return [
        accuracy_fit.ClassPair(
            network=number, share=float(np.clip(pair.share + rng.normal(0, 0.05), 0, 1)),
            strength=pair.strength, size=len(pair.classes),
            accuracy=float(np.clip(pair.accuracy + rng.normal(0, 0.05), 0.02, 0.98)),
        )
        for number, pair in enumerate(pairs)
        for _ in pair.classes
    ]  # fmt: skip


def _size_data(network, slots, classes: int, side: int) -> library.SizeData:
    """Measurements as they could be; at the smaller size every network is less accurate."""
    rng = np.random.default_rng(side)
    blocks = [slot for slot in slots if slot.kind == "block"]
    curves = []
    for slot in blocks:
        rising = np.cumsum(rng.uniform(0.1, 1.0, (classes, slot.groups)), 1).astype(np.float32)
        curves.append(np.pad(rising, ((0, 0), (1, 0))))
    pairs = synthetic_pairs(60, 11, classes, len(blocks))
    whole = 0.5 + 0.04 * np.arange(classes)
    if side < SIDE:
        whole = strength.moved(whole, -0.9)
    return library.SizeData(
        curves=np.concatenate(curves, 1),
        statistics=_statistics(network, slots, plans=4, side=side),
        accuracy={
            "fit": accuracy_fit.fit_accuracy([pairs])[0],
            "class_fit": accuracy_fit.fit_class_accuracy([_class_pairs(pairs)])[0],
            "per_class": [round(float(value), 4) for value in whole],
            "split": "validation",
            "pairs": [dataclasses.asdict(pair) for pair in pairs],
        },
    )


def write_toy(folder: Path, kind: str, *, without_images: str = "stored") -> Path:
    """Write a toy library of a kind to ``folder``."""
    pytest.importorskip("torch")
    from nnfactory.factory.supernet.onnx_graph import network_from_weights
    from nnfactory.factory.supernet.recipe import table_from_recipe

    shape, classes = architecture(kind), CLASSES[kind]
    network, slots = network_from_weights(shape, numpy_weights(random_supernet(kind)))
    rng = np.random.default_rng(7)
    ranks = np.concatenate([np.arange(s.groups) for s in slots if s.kind == "block"])
    importance = {
        width: (rng.uniform(0.5, 1.5, (len(classes), len(ranks))) * 0.8**ranks).astype(np.float32)
        for width in ("full", "half")
    }
    card = {
        "schema": 1,
        "name": folder.name,
        "title": f"Toy modules for '{kind}'",
        "kind": kind,
        "classes": list(classes),
        "wordnet": list(WORDNET if kind == "cls" else ()),
        "input": {
            "size": SIDE,
            "sizes": list(SIDES),
            "color": "RGB",
            "range": [0.0, 1.0],
            "resize": "letterbox" if kind == "det" else "center-crop",
            "head_strides": list(shape.head_strides),
        },
        "data": dict(recipe(kind).data),
        "weights": {"license": "CC0"},
        "metric": {
            "name": "AP50" if kind == "det" else "top-1",
            "split": "test",
            "value": 0.5,
            "low": 0.45,
            "high": 0.55,
            "level": 0.95,
            "n": 400,
        },
        "normalization": {
            "mode": "reestimated",
            "without_images": without_images,
            "validation": {"sliced": 0.41, "stored": 0.49, "reestimated": 0.5},
        },
        "values": {"source": "blend", "validation": {"full": 0.4, "half": 0.4, "blend": 0.5}},
        "training": {
            "compute": "none",
            "hours": 0.0,
            "recipe": table_from_recipe(recipe(kind)),
        },
    }
    writer.write_library(
        folder,
        card=card,
        network=network,
        slots=slots,
        importance=importance,
        sizes={side: _size_data(network, slots, len(classes), side) for side in SIDES},
        prototypes=_prototypes(network, len(classes)) if kind == "cls" else None,
    )
    return folder


def class_images(classes: int, each: int, seed: int = 0, side: int = SIDE) -> Images:
    """Images that can be told apart: each class is noise around a color of its own."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    colors = np.random.default_rng(classes).integers(40, 216, (classes, 1, 1, 3))
    noise = rng.integers(-30, 31, (len(labels), side, side, 3))
    pixels = (colors[labels] + noise).astype(np.uint8)
    return Images(pixels=pixels, labels=labels.astype(np.int64), boxes=())


def _prototypes(network, classes: int) -> library.Prototypes:
    return features.measure_prototypes(network, class_images(classes, 4), classes)


def with_size_data(of: library.ModuleLibrary, **changes: object) -> library.ModuleLibrary:
    """The library with other measurements at its input size."""
    data = dataclasses.replace(of.sizes[of.input_size], **changes)  # type: ignore[arg-type]
    return dataclasses.replace(of, sizes={**of.sizes, of.input_size: data})


def _energy_table(of: library.ModuleLibrary) -> schema.EnergyTable:
    """Energies in whole nanojoules that do not follow the latencies."""
    rng = np.random.default_rng(17)
    rows = {
        slot.name: (0, *(int(e) for e in np.cumsum(rng.integers(1_000, 20_000, slot.groups))))
        for slot in of.slots
    }
    return schema.EnergyTable(
        fixed_nj=30_000, slots=rows, error_low=0.8, error_high=1.5, level=0.9, n=20
    )


def latency_table(of: library.ModuleLibrary, **changes: object) -> schema.LatencyTable:
    """A synthetic table in whole nanoseconds: every block that runs costs something at once.

    A quarter of all costs does not depend on the input size.
    """
    rng = np.random.default_rng(13)

    def scaled(ns: int) -> int:
        return ns * (SIDE**2 + 3 * of.input_size**2) // (4 * SIDE**2)

    slots = {}
    for slot in of.slots:
        steps = rng.integers(2_000, 9_000, slot.groups)
        start = 0 if slot.kind == "classes" else 20_000
        slots[slot.name] = (0, *(scaled(start + int(total)) for total in np.cumsum(steps)))
    entries: dict = {
        "device": "toy-device",
        "library": of.id,
        "input_size": of.input_size,
        "runtime": "toy 1.0",
        "precision": "fp32",
        "threads": 1,
        "fixed_ns": scaled(40_000),
        "slots": slots,
        "tail": {90: 1.05, 95: 1.1, 99: 1.3},
        "error_low": 0.9,
        "error_high": 1.15,
        "level": 0.9,
        "n": 36,
        "is_measured": True,
        "created": "2026-01-02T03:04:05+00:00",
        "conditions": {"load": 0.1},
        "energy": _energy_table(of),
    }
    return schema.LatencyTable(**(entries | changes))


@pytest.fixture(scope="session")
def toy_cls(tmp_path_factory: pytest.TempPathFactory) -> library.ModuleLibrary:
    """A classification library of six classes, written to disk and opened again."""
    return store.open_library(write_toy(tmp_path_factory.mktemp("libraries") / "toy-cls", "cls"))


@pytest.fixture(scope="session")
def toy_det(tmp_path_factory: pytest.TempPathFactory) -> library.ModuleLibrary:
    """A detection library of four classes, written to disk and opened again."""
    return store.open_library(write_toy(tmp_path_factory.mktemp("libraries") / "toy-det", "det"))


@pytest.fixture(scope="session", params=["cls", "det"])
def toy_library(request: pytest.FixtureRequest) -> library.ModuleLibrary:
    """Each of the toy libraries in turn."""
    return request.getfixturevalue(f"toy_{request.param}")


@pytest.fixture(scope="session")
def toy_table() -> Callable[..., schema.LatencyTable]:
    """The function ``toy_table(library, **changed_fields)`` that gives a synthetic table."""
    return latency_table


@pytest.fixture(scope="session")
def toy_parts():
    """The functions that make toy architectures, supernets, recipes, pairs and libraries."""
    from types import SimpleNamespace

    return SimpleNamespace(
        side=SIDE,
        sides=SIDES,
        classes=CLASSES,
        wordnet=WORDNET,
        architecture=architecture,
        recipe=recipe,
        supernet=random_supernet,
        weights=numpy_weights,
        pairs=synthetic_pairs,
        write=write_toy,
        with_size_data=with_size_data,
        images=class_images,
    )


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator, fresh for every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the public data sets; the test is skipped where there is none."""
    named = os.environ.get("NNFACTORY_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the data sets: set NNFACTORY_DATA to their folder")
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; no cache and no libraries of the user."""
    monkeypatch.setenv("NNFACTORY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "user"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def imported_resnets(data_dir: Path, folder: Path) -> tuple[str, ...]:
    """Two CIFAR networks that were imported, as files in the current folder, too; their names."""
    for name in ("resnet8", "resnet20"):
        one = pretrained.pretrained(data_dir, name)
        onnx.save(model_from_network(one.network), folder / f"{name}.onnx")
        api.import_network(
            folder / f"{name}.onnx", name=name, labels=tuple(f"class {i}" for i in range(10)),
            mean=one.mean, std=one.std, license=one.licence,
        )  # fmt: skip
    return "resnet8", "resnet20"


@pytest.fixture
def photos(imported_resnets: tuple[str, ...], folder: Path) -> Path:
    """Two imported networks; images of three of their classes, which are no such things."""
    return write_photos(folder / "photos", ("class 1", "class 4", "class 7"), 24)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command line in this process."""

    def invoke(*words: object) -> Result:
        arguments = [str(word) for word in words]
        monkeypatch.setattr(sys, "argv", ["nnfactory", *arguments])
        return CliRunner().invoke(cli, arguments, prog_name="nnfactory")

    return invoke


@pytest.fixture
def host(
    monkeypatch: pytest.MonkeyPatch, toy_table: Callable[..., schema.LatencyTable]
) -> FakeHost:
    """This machine with a synthetic latency table and measurements that tests say."""
    fake = FakeHost()
    monkeypatch.setattr(
        tables_of_machines,
        "measure_table",
        lambda library, *, threads=1, report=None: toy_table(library, device="host"),
    )
    monkeypatch.setattr(measure, "measure_host", fake.measure)
    return fake
