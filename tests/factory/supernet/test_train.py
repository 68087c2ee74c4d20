"""Training through the real loop: tiny, resumable, and refused where it must be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from nnfactory.factory.datasets import DataSet, Images
from nnfactory.factory.errors import DataError, SpecError, UnknownNameError
from nnfactory.factory.graph.evaluate import run_network

torch = pytest.importorskip("torch")

from nnfactory.factory.supernet.checkpoint import load_checkpoint, read_recipe  # noqa: E402
from nnfactory.factory.supernet.recipe import (  # noqa: E402
    load_recipe,
    recipe_from_table,
    shipped_recipes,
    table_from_recipe,
)
from nnfactory.factory.supernet.train import learning_rate, train  # noqa: E402

STEPS = 6  # two epochs of 24 images in batches of 8


def synthetic(kind: str, side: int, classes: int, n: int, seed: int) -> Images:
    """Pictures whose color, or colored square, tells the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    tints = np.random.default_rng(0).integers(60, 256, (classes, 3))
    pixels = rng.integers(0, 60, (n, side, side, 3))
    boxes = []
    for picture, label in zip(pixels, labels, strict=True):
        x, y = rng.integers(0, side // 2, 2) if kind == "det" else (0, 0)
        size = side // 2 if kind == "det" else side
        picture[y : y + size, x : x + size] += tints[label] // 2
        boxes.append(np.array([[label, x, y, x + size, y + size]], np.float32))
    return Images(
        pixels=pixels.clip(0, 255).astype(np.uint8),
        labels=labels.astype(np.int64) if kind == "cls" else np.empty(0, np.int64),
        boxes=tuple(boxes) if kind == "det" else (),
    )


@pytest.fixture(scope="session")
def data(toy_parts) -> dict[str, DataSet]:
    sets = {}
    for kind, names in toy_parts.classes.items():
        parts = (
            synthetic(kind, toy_parts.side, len(names), n, seed)
            for seed, n in enumerate((24, 12, 12))
        )
        train_images, validation, test = parts
        sets[kind] = DataSet(
            classes=names, wordnet=(), train=train_images, validation=validation, test=test
        )
    return sets


def weights_equal(first, second) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_an_interrupted_run_ends_like_one_that_was_not_interrupted(
    toy_parts, data, kind, tmp_path: Path
):
    torch.set_num_threads(1)
    recipe = toy_parts.recipe(kind)
    statuses = []
    whole = train(recipe, data[kind], tmp_path / "whole", report=statuses.append)
    assert [status.step for status in statuses] == list(range(1, STEPS + 1))
    assert all(status.steps == STEPS and np.isfinite(status.loss) for status in statuses)
    assert statuses[0].metric is None
    assert all(0 <= value <= 1 for value in statuses[-1].metric)

    def interrupt(status) -> None:
        if status.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, data[kind], tmp_path / "parts", report=interrupt)
    resumed_steps = []
    resumed = train(
        recipe, data[kind], tmp_path / "parts", resume=True, report=resumed_steps.append
    )
    assert [status.step for status in resumed_steps] == [5, 6]
    assert weights_equal(whole, resumed)


def test_a_run_leaves_checkpoint_recipe_and_log(toy_parts, data, tmp_path: Path):
    recipe = toy_parts.recipe("cls")
    run_dir = tmp_path / "run"
    network = train(recipe, data["cls"], run_dir)
    assert sorted(path.name for path in run_dir.iterdir()) == [
        "checkpoint.safetensors",
        "log.jsonl",
        "recipe.json",
    ]
    assert read_recipe(run_dir) == recipe
    rows = [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    again = toy_parts.supernet("cls")
    progress = load_checkpoint(run_dir / "checkpoint.safetensors", again)
    assert progress.step == STEPS
    assert progress.seconds > 0
    assert weights_equal(network, again)


def test_a_finished_run_that_is_resumed_stays_as_it_is(toy_parts, data, tmp_path: Path):
    recipe = toy_parts.recipe("cls", epochs=1)
    first = train(recipe, data["cls"], tmp_path / "run")
    steps = []
    second = train(recipe, data["cls"], tmp_path / "run", resume=True, report=steps.append)
    assert not steps
    assert weights_equal(first, second)


def test_another_seed_gives_another_network(toy_parts, data, tmp_path: Path):
    one, two = (
        train(toy_parts.recipe("cls", epochs=1, seed=seed), data["cls"], tmp_path / str(seed))
        for seed in (0, 1)
    )
    assert not weights_equal(one, two)


def test_a_run_that_is_there_is_not_overwritten(toy_parts, data, tmp_path: Path):
    recipe = toy_parts.recipe("cls", epochs=1)
    train(recipe, data["cls"], tmp_path / "run")
    before = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(SpecError, match="holds a training run") as caught:
        train(recipe, data["cls"], tmp_path / "run")
    assert "--resume" in caught.value.hints[0]
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == before


def test_a_run_is_not_resumed_with_another_recipe(toy_parts, data, tmp_path: Path):
    train(toy_parts.recipe("cls", epochs=1), data["cls"], tmp_path / "run")
    with pytest.raises(DataError, match="another recipe"):
        train(toy_parts.recipe("cls", epochs=2), data["cls"], tmp_path / "run", resume=True)
    with pytest.raises(DataError, match="no checkpoint of this recipe"):
        train(toy_parts.recipe("det"), data["det"], tmp_path / "run", resume=True)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x08" + b"\x00" * 7 + b"{}      "])
def test_a_damaged_checkpoint_is_refused(toy_parts, data, tmp_path: Path, content):
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="no checkpoint of this recipe"):
        train(toy_parts.recipe("cls"), data["cls"], tmp_path, resume=True)


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="holds no training run") as caught:
        read_recipe(tmp_path)
    assert "modules train" in caught.value.hints[0]


def test_fewer_images_than_a_batch_are_refused(toy_parts, data, tmp_path: Path):
    recipe = toy_parts.recipe("cls", batch=25)
    with pytest.raises(DataError, match="24 training images are less than one batch"):
        train(recipe, data["cls"], tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none(toy_parts, data, tmp_path: Path):
    with pytest.raises(SpecError, match="no CUDA device"):
        train(toy_parts.recipe("cls"), data["cls"], tmp_path / "run", compute="cuda")


@pytest.mark.parametrize("kind", ["cls", "det"])
def test_a_run_can_start_from_a_published_library(
    toy_cls, toy_det, toy_parts, data, kind, tmp_path
):
    library = {"cls": toy_cls, "det": toy_det}[kind]
    recipe = toy_parts.recipe(kind, epochs=0)  # nothing is trained: the start is the end
    network = train(recipe, data[kind], tmp_path / "run", init=library.network.weights).eval()
    image = np.random.default_rng(4).random((1, 3, 32, 32), dtype=np.float32)
    found = run_network(library.network, {"images": image})
    with torch.no_grad():
        expected = network(torch.from_numpy(image))
    if kind == "cls":
        np.testing.assert_allclose(found["logits"], expected.numpy(), atol=1e-4)
    else:
        flat = [found[f"classes{s}"].reshape(1, 4, -1) for s in (2, 4)]
        joined = np.concatenate(flat, 2).transpose(0, 2, 1)
        np.testing.assert_allclose(joined, expected[0].numpy(), atol=1e-4)


def test_a_library_of_another_architecture_is_no_start(toy_cls, toy_det, toy_parts, data, tmp_path):
    recipe = toy_parts.recipe("cls")
    wider = dataclasses.replace(
        recipe, architecture=toy_parts.architecture("cls", stem_channels=16)
    )
    with pytest.raises(DataError, match="another architecture"):
        train(wider, data["cls"], tmp_path / "a", init=toy_cls.network.weights)
    with pytest.raises(DataError, match="another architecture"):
        train(recipe, data["cls"], tmp_path / "b", init={"foreign": np.zeros(3, np.float32)})


def test_the_learning_rate_rises_then_falls_to_a_hundredth(toy_parts):
    training = toy_parts.recipe("cls", lr=1.0, warmup=0.1).training
    rates = [learning_rate(training, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-3)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_survive_the_table(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from_table(json.loads(json.dumps(table_from_recipe(recipe)))) == recipe


def test_an_unknown_recipe_brings_the_nearest_one():
    with pytest.raises(UnknownNameError) as caught:
        load_recipe("fod13")
    assert "'fod31'" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "name = ", "architecture = 3", "[architecture]\nkind = 'cls'"]
)
def test_a_malformed_recipe_is_refused(tmp_path: Path, text):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(DataError, match="no valid recipe"):
        load_recipe(tmp_path / "r.toml")
