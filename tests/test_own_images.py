"""Building from a user's own images: examples of new classes, and labelled images that measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nnfactory import api
from nnfactory.exporters.bundle import read_manifest
from nnfactory.factory.datasets import Images
from nnfactory.factory.errors import DataError, UsageError
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.schema import Budget

pytestmark = pytest.mark.usefixtures("folder")


def written(place: Path, images: Images, names: Sequence[str]) -> Path:
    """The images as PNG files, a folder per class."""
    for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        (place / names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / names[label] / f"{number}.png")
    return place


@pytest.fixture
def example_images(folder: Path, toy_parts) -> Path:
    """Eight images of each of three new classes."""
    return written(folder / "examples", toy_parts.images(3, 8), ("amber", "blue", "coral"))


@pytest.fixture
def own_images(folder: Path, toy_parts) -> Path:
    """Forty labelled images of each of three classes of the toy library."""
    names = ("goldfish", "bullfrog", "tailed frog")
    return written(folder / "pond", toy_parts.images(3, 40), names)


def test_network_of_new_classes_is_built_verified_and_answers(
    toy_cls: ModuleLibrary, example_images: Path
):
    result = api.build(
        task="cls", device="jetson", library=str(toy_cls.folder), examples=example_images,
        allow_novel=True, budget=Budget(sparsity=0.4),
    )  # fmt: skip
    (accuracy,) = result.accuracy
    assert (accuracy.subject, accuracy.interval.n) == ("artifact", 24)
    assert accuracy.interval.value > 0.5  # of three classes, by an untrained network
    place = Path(result.artifact.folder)
    manifest = read_manifest(place)
    assert manifest["classes"] == ["amber", "blue", "coral"]
    assert manifest["plan"]["examples"] == result.plan.task.examples != ""
    assert [row["subject"] for row in manifest["accuracy"]] == ["artifact", "library"]
    answers = [
        api.run(place, image).probs.top1 == label
        for label, name in enumerate(manifest["classes"])
        for image in sorted((example_images / name).iterdir())
    ]
    assert np.mean(answers) >= accuracy.interval.value
    checks = {check.name: check for check in api.verify(place)}
    assert all(check.passed is not False for check in checks.values())


def test_verify_links_the_modules_of_new_classes_again(
    toy_cls: ModuleLibrary, example_images: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "nnfactory.factory.library.store.library_folders", lambda: {"toy-cls": toy_cls.folder}
    )
    result = api.build(
        task="cls", device="jetson", library="toy-cls", examples=example_images, allow_novel=True
    )
    (check,) = [c for c in api.verify(Path(result.artifact.folder)) if c.name == "library"]
    assert check.passed
    assert "fitted to examples, is not compared" in check.text


def test_examples_and_named_classes_exclude_each_other(
    toy_cls: ModuleLibrary, example_images: Path
):
    with pytest.raises(UsageError, match="The classes are those of the example images"):
        api.build(
            task="cls", device="jetson", library=str(toy_cls.folder), examples=example_images,
            classes=["goldfish"],
        )  # fmt: skip


def test_plan_of_new_classes_has_estimates_of_every_size(
    toy_cls: ModuleLibrary, example_images: Path
):
    answer = api.plan(
        task="cls", device="jetson", library=str(toy_cls.folder), examples=example_images,
        allow_novel=True, points=5,
    )  # fmt: skip
    assert answer.task.classes == ("amber", "blue", "coral")
    accuracies = [point.estimate.accuracy.value for point in answer.points]
    assert accuracies == sorted(accuracies)
    assert len(accuracies) > 1


def test_own_images_choose_and_measure(
    toy_cls: ModuleLibrary, own_images: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "nnfactory.factory.library.store.library_folders", lambda: {"toy-cls": toy_cls.folder}
    )
    request: dict[str, Any] = {
        "task": "cls", "device": "jetson", "library": "toy-cls", "budget": Budget(sparsity=0.5),
        "classes": ["goldfish", "bullfrog", "tailed frog"], "overwrite": True,
    }  # fmt: skip
    plain = api.build(**request, out_dir=Path("plain"))
    assert plain.accuracy == ()
    result = api.build(**request, data=own_images, out_dir=Path("own"))
    (accuracy,) = result.accuracy
    assert accuracy.interval.n == 60
    assert "60 images that took no part in the choice" in accuracy.dataset
    manifest = read_manifest(Path("own"))
    assert manifest["accuracy"][0]["n"] == 60
    assert manifest["plan"]["normalization"] == result.plan.normalization
    assert result.chosen.images == 60
    assert manifest["plan"]["chosen"]["candidates"] == result.chosen.candidates == 4
    page = Path("own", "README.md").read_text(encoding="utf-8")
    assert "Chosen from 4 networks with 60 other images" in page
    (check,) = [c for c in api.verify(Path("own")) if c.name == "library"]
    if result.plan.normalization == "reestimated":
        assert check.passed is None
        assert "re-estimated on images" in check.text
    else:
        assert check.passed


def test_examples_do_not_measure_themselves(toy_cls: ModuleLibrary, example_images: Path):
    with pytest.raises(DataError, match="examples do not count"):
        api.build(
            task="cls", device="jetson", library=str(toy_cls.folder), examples=example_images,
            allow_novel=True, data=example_images,
        )  # fmt: skip
