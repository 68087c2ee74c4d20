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
from nnfactory.factory.library.writer import toml_text

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from nnfactory.factory.supernet import train as training  # noqa: E402
from nnfactory.factory.supernet.augment import augment_det, tensor_from_pixels  # noqa: E402
from nnfactory.factory.supernet.checkpoint import load_checkpoint, read_recipe  # noqa: E402
from nnfactory.factory.supernet.detection_loss import MANY, detection_loss  # noqa: E402
from nnfactory.factory.supernet.network import (  # noqa: E402
    boxes_around,
    boxes_from_distances,
    distances_from_bins,
    supernet_from_architecture,
)
from nnfactory.factory.supernet.objective import objective_for  # noqa: E402
from nnfactory.factory.supernet.recipe import (  # noqa: E402
    Conditioning,
    Teaching,
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


def initial(recipe):
    """The network that a run of the recipe starts from."""
    torch.manual_seed(recipe.training.seed)
    return supernet_from_architecture(recipe.architecture)


def test_the_result_is_the_running_average_of_all_steps(toy_parts, data, tmp_path: Path):
    recipe = toy_parts.recipe("cls", average=0.3)  # faster than the start for the last steps
    average = {name: value.double() for name, value in initial(recipe).state_dict().items()}
    path = tmp_path / "run" / "checkpoint.safetensors"
    for step in range(STEPS):  # one step at a time, to see the weights after each

        def interrupt(status) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(recipe, data["cls"], path.parent, resume=step > 0, report=interrupt)
        saved = load_file(path)
        kept = min(0.3, (1 + step) / (10 + step))
        for name, value in average.items():
            if "num_batches" in name:
                continue
            now = saved[f"network.{name}"].double()
            average[name] = kept * value + (1 - kept) * now
            np.testing.assert_allclose(saved[f"average.{name}"], average[name], atol=1e-5)
    result = train(recipe, data["cls"], path.parent, resume=True)
    for name, value in result.state_dict().items():
        np.testing.assert_array_equal(value, load_file(path)[f"average.{name}"])
    whole = train(recipe, data["cls"], tmp_path / "whole")
    assert weights_equal(whole, result)
    once = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    assert once.keys() == saved.keys()
    assert all(torch.equal(once[name], value) for name, value in saved.items())


def test_an_average_without_memory_is_the_network_itself(toy_parts, data, tmp_path: Path):
    recipe = toy_parts.recipe("det", average=0.0, epochs=1)
    result = train(recipe, data["det"], tmp_path / "run")
    saved = load_file(tmp_path / "run" / "checkpoint.safetensors")
    for name, value in result.named_parameters():
        assert torch.equal(value, saved[f"network.{name}"])
        assert not value.requires_grad
    remembered = train(toy_parts.recipe("det", epochs=1), data["det"], tmp_path / "other")
    assert not weights_equal(result, remembered)


@pytest.mark.parametrize(
    "changes", [{"narrow": 3}, {"mosaic": 0.9}, {"paste": 1.0}, {"alterations": 2}, {"seed": 1}]
)
def test_what_a_step_sees_depends_on_the_recipe(toy_parts, data, changes, tmp_path: Path):
    usual = train(toy_parts.recipe("det", epochs=1), data["det"], tmp_path / "a")
    other = train(toy_parts.recipe("det", epochs=1, **changes), data["det"], tmp_path / "b")
    assert not weights_equal(usual, other)


def test_several_input_sizes_are_trained(toy_parts, data, tmp_path: Path, monkeypatch):
    seen = []
    found = training.sample_size
    monkeypatch.setattr(
        training, "sample_size", lambda sizes, rng: seen.append(found(sizes, rng)) or seen[-1]
    )
    both = train(toy_parts.recipe("det", epochs=4), data["det"], tmp_path / "both")
    assert set(seen) == {32, 16}
    recipe = toy_parts.recipe("det", epochs=4)
    shape = dataclasses.replace(recipe.architecture, input_sizes=(32,))
    seen.clear()
    one = train(dataclasses.replace(recipe, architecture=shape), data["det"], tmp_path / "one")
    assert set(seen) == {32}
    assert not weights_equal(both, one)


def test_the_last_part_of_a_training_has_no_mosaics(toy_parts, data):
    images, index = data["det"].train, np.arange(8)
    boxes = [images.boxes[i] for i in index]
    pixels = tensor_from_pixels(images.pixels[index])
    objective = objective_for(
        toy_parts.supernet("det"), toy_parts.recipe("det", mosaic=0.9).training, None
    )
    for done, mosaic in ((0.0, 0.9), (0.84, 0.9), (0.86, 0.0), (0.99, 0.0)):
        found = objective.batch(images, index, np.random.default_rng(1), done)
        expected = augment_det(pixels, boxes, np.random.default_rng(1), mosaic=mosaic)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@torch.no_grad()
def test_at_a_smaller_size_the_labels_shrink_with_the_picture(toy_parts):
    network = toy_parts.supernet("det")
    recipe = toy_parts.recipe("det")
    objective = objective_for(network, recipe.training, None)
    inputs = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    targets = torch.full((4, 3, 5), -1.0)
    targets[:, 0] = torch.tensor([1.0, 4, 6, 20, 26])
    targets[1:, 1] = torch.tensor([3.0, 10, 2, 30, 12])
    objective.full_loss(inputs, targets)
    widths = tuple(max(1, groups // 2) for groups in network.full)
    found = objective.narrow_loss(inputs, targets, widths, 16)

    small = torch.nn.functional.interpolate(inputs, (16, 16), mode="bilinear", antialias=True)
    half = targets.clone()
    half[..., 1:] = torch.where(targets[..., :1] < 0, targets[..., 1:], targets[..., 1:] / 2)
    centers, strides = network.anchors(16)
    maps = network.embed(small, widths)
    logits, raw = network.predict(maps)
    boxes = boxes_from_distances(raw, centers, strides)
    one = detection_loss(logits, boxes, half, centers, strides, top=1)
    logits, raw = network.predict(maps, many=True)
    boxes = boxes_around(distances_from_bins(raw), centers, strides)
    many = detection_loss(logits, boxes, half, centers, strides, top=MANY, sides=raw)
    assert float(found) == pytest.approx(0.5 * float(one.mean() + many.mean()), rel=1e-5)


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


def test_a_run_is_resumed_whatever_it_started_from_and_however_it_is_published(
    toy_parts, data, tmp_path: Path
):
    recipe = toy_parts.recipe("cls", epochs=1)
    train(dataclasses.replace(recipe, init="toy 12ab"), data["cls"], tmp_path / "run")
    assert read_recipe(tmp_path / "run").init == "toy 12ab"
    other = dataclasses.replace(recipe, conditioning=Conditioning(steps=5))
    train(other, data["cls"], tmp_path / "run", resume=True)


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


def test_a_backbone_of_another_library_fits_and_the_rest_starts_fresh(
    toy_parts, toy_det, data, tmp_path: Path
):
    recipe = toy_parts.recipe("cls", epochs=0, seed=5)
    weights = dict(toy_det.network.weights)
    weights["stages.1.1.expand.conv.weight"] = np.zeros((8, 16, 3, 3), np.float32)  # narrower
    found = train(recipe, data["cls"], tmp_path / "run", init=weights).state_dict()
    fresh = initial(recipe).state_dict()
    std = torch.tensor(recipe.architecture.std).view(1, 3, 1, 1)
    for name, value in found.items():
        if name == "stages.1.1.expand.conv.weight" or name not in weights:
            expected = fresh[name]
        else:
            expected = torch.from_numpy(weights[name].copy())
            expected = expected * std if name == "stem.conv.weight" else expected
        assert torch.equal(value, expected), name
    assert not torch.equal(found["stages.0.0.expand.conv.weight"],
                           fresh["stages.0.0.expand.conv.weight"])  # fmt: skip


def test_a_run_that_is_resumed_takes_no_other_weights(toy_parts, toy_cls, data, tmp_path: Path):
    with pytest.raises(SpecError, match="--resume and --init exclude each other"):
        train(
            toy_parts.recipe("cls"), data["cls"], tmp_path, resume=True,
            init=toy_cls.network.weights,
        )  # fmt: skip


def test_a_library_of_another_architecture_is_no_start(toy_cls, toy_det, toy_parts, data, tmp_path):
    recipe = toy_parts.recipe("cls")
    blocks = {
        name: array for name, array in toy_cls.network.weights.items() if "stages." not in name
    }
    with pytest.raises(DataError, match="another architecture"):
        train(recipe, data["cls"], tmp_path / "a", init=blocks)
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


@pytest.mark.parametrize(
    ("section", "changes", "text"),
    [
        ("architecture", {"input_sizes": [32, 64]}, "input_size must be the largest"),
        ("architecture", {"input_sizes": [16]}, "input_size must be the largest"),
        ("architecture", {"input_sizes": [32, 18]}, "multiples of the largest stride"),
        ("architecture", {"input_sizes": 32}, "no valid recipe"),
        ("architecture", {"input_sizes": ["32"]}, "input_size must be the largest"),
        ("architecture", {"stem_kernels": 3}, "no valid recipe"),
        ("training", {"mosaics": 0.5}, "no valid recipe"),
        ("training", {"paste": 1.5}, "Training.paste must be in"),
        ("teacher", {"folder": "pretrained"}, "no valid recipe"),
        ("teacher", {"pupil": 1}, "no valid recipe"),
    ],
)
def test_a_recipe_with_a_wrong_field_is_refused(toy_parts, tmp_path: Path, section, changes, text):
    table = table_from_recipe(toy_parts.recipe("cls"))
    table[section] = {**(table[section] or {}), **changes}
    (tmp_path / "r.toml").write_text(toml_text(table))
    with pytest.raises(DataError, match=text):
        load_recipe(tmp_path / "r.toml")


def test_a_recipe_without_the_newer_fields_has_one_size_and_no_teacher(toy_parts):
    table = json.loads(json.dumps(table_from_recipe(toy_parts.recipe("cls"))))
    for name in ("input_sizes", "stem_kernel"):
        del table["architecture"][name]
    for name in ("mosaic", "paste", "narrow", "average"):
        del table["training"][name]
    del table["teacher"]
    recipe = recipe_from_table(table)
    assert recipe.architecture.input_sizes == (32,)
    assert recipe.architecture.stem_kernel == 3
    assert recipe.training.narrow == 1
    assert recipe.training.mosaic == 0
    assert recipe.teacher is None


def test_sizes_and_teacher_survive_the_table(toy_parts):
    teacher = Teaching(
        folder="pretrained", network="tiny", license="MIT", size=24, epochs=2, lr=1e-3, views=3
    )
    recipe = dataclasses.replace(toy_parts.recipe("cls"), teacher=teacher)
    assert recipe_from_table(json.loads(json.dumps(table_from_recipe(recipe)))) == recipe
