"""Components at smaller images: what is compared, what stays as it is, what people are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result
from onnx import NodeProto, helper
from PIL import Image
from pretrained import pretrained

from nnfactory import api
from nnfactory.api.component_case import open_case
from nnfactory.factory.datasets import read_pack
from nnfactory.factory.graph.network import Network, model_from_network
from nnfactory.factory.reuse.store import open_donor
from nnfactory.factory.schema import Budget

pytestmark = pytest.mark.usefixtures("folder")
CLASSES = ("class 1", "class 4", "class 7")
Run = Callable[..., Result]


@pytest.fixture
def real_photos(imported_resnets: tuple[str, ...], data_dir: Path, folder: Path) -> Path:
    """Two imported networks; images of three of their classes."""
    packed = data_dir / "cifar10_jpeg" / "test.npz"
    labels, pixels = np.load(packed)["label"], read_pack(packed)
    for label in (1, 4, 7):
        place = folder / "real" / f"class {label}"
        place.mkdir(parents=True)
        for number in np.flatnonzero(labels == label)[:40]:
            Image.fromarray(pixels[number]).save(place / f"{number}.png")
    return folder / "real"


def test_smaller_images_are_nearer_than_fewer_channels(real_photos: Path, run: Run):
    free, kept = (
        api.disassemble(
            "resnet8", real_photos, classes=CLASSES, budget=Budget(mmacs=6), keep_size=keep_size,
            out_dir=Path("kept" if keep_size else "free"),
        )
        for keep_size in (False, True)
    )  # fmt: skip
    assert (kept.result.plan.input_size, kept.whole_size, kept.sizes) == (32, 32, 0)
    assert (free.whole_size, free.sizes) == (32, 9)
    assert free.result.plan.input_size < 32
    assert free.result.estimate.mmacs <= 6
    assert sum(view.kept for view in free.families) > sum(view.kept for view in kept.families)
    manifest = json.loads(Path("free/manifest.json").read_text())
    assert manifest["preprocess"]["size"] == [free.result.plan.input_size] * 2
    assert api.verify(Path("free"))
    (image, *_) = (real_photos / "class 4").iterdir()
    assert run("run", "free", image).exit_code == 0


def test_parameters_are_saved_by_channels_alone(photos: Path):
    made = api.disassemble(
        "resnet8", photos, classes=CLASSES, budget=Budget(mparams=0.05), out_dir=Path("made")
    )
    assert made.result.plan.input_size == 32
    assert made.result.estimate.mparams <= 0.05


def test_where_the_limits_allow_all_nothing_is_cut(photos: Path, run: Run):
    words = ["disassemble", "resnet8", "--classes", ",".join(CLASSES), "--data", photos]
    done = run(*words, "--macs", "100M", "-o", "made")
    assert done.exit_code == 0, done.output
    assert "the limits allow all, nothing was cut" in done.output
    assert " px instead of" not in done.output
    assembly = json.loads(Path("made/manifest.json").read_text())["assembly"]
    assert assembly["solver"] == "nothing cut"
    assert assembly["gap"] == 0


def with_mean_image(network: Network) -> Network:
    """The same behind an image that is subtracted from its own: it fits one size alone."""
    (entry,) = network.inputs
    mean = np.zeros((1, 3, *network.inputs[entry][2:]), np.float32)
    first = helper.make_node("Sub", [entry, "mean"], ["centred"], name="centre")
    second = NodeProto()
    second.CopyFrom(network.nodes[0])
    second.input[0] = "centred"
    weights = {**network.weights, "mean": mean}
    return replace(network, nodes=(first, second, *network.nodes[1:]), weights=weights)


def test_a_network_of_one_size_says_so(photos: Path, data_dir: Path, run: Run):
    one = pretrained(data_dir, "resnet8")
    onnx.save(model_from_network(with_mean_image(one.network)), "fixed.onnx")
    names = tuple(f"class {i}" for i in range(10))
    api.import_network(Path("fixed.onnx"), name="fixed", labels=names, mean=one.mean, std=one.std)
    words = ["disassemble", "fixed", "--classes", ",".join(CLASSES), "--data", photos]
    done = run(*words, "--macs", "8M", "-o", "made")
    assert done.exit_code == 0, done.output
    assert "fixed runs at no other input size, so channels alone were cut" in done.output
    told = run(*words, "--macs", "8M", "-o", "made", "--overwrite", "--keep-size")
    assert told.exit_code == 0, told.output
    assert "no other input size" not in told.output


def test_accuracy_is_that_of_images_resized_once(photos: Path):
    case = open_case(open_donor("resnet8"), photos, CLASSES, 20)  # images of 40 by 36
    assert case.at(32) is case
    assert case.as_deployed() is case.measuring
    small = case.at(20)
    assert small.size == 20
    assert small.at(20) is small
    deployed = small.as_deployed()
    assert deployed.pixels.shape == small.measuring.pixels.shape
    assert deployed.pixels.shape[1:] == (20, 20, 3)
    assert np.array_equal(deployed.labels, small.measuring.labels)
    near = np.abs(deployed.pixels.astype(float) - small.measuring.pixels)
    assert 0 < near.mean() < 20  # resized twice on the way, where nothing is reported
    assert small.judged(small.anatomy.network).divergence > 0
    assert case.judged(case.anatomy.network).divergence == 0
