"""A tiny 8-bit network as teacher: read, normalized, fine-tuned, and its answers kept."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nnfactory.factory.datasets import DataSet, Images
from nnfactory.factory.errors import DataError

torch = pytest.importorskip("torch")

from nnfactory.factory.supernet import teacher  # noqa: E402
from nnfactory.factory.supernet.augment import moved, tensor_from_pixels  # noqa: E402
from nnfactory.factory.supernet.objective import divergence, objective_for  # noqa: E402
from nnfactory.factory.supernet.recipe import Teaching  # noqa: E402
from nnfactory.factory.supernet.teacher import (  # noqa: E402
    ANSWERS,
    QuantizedNetwork,
    TeacherAnswers,
    teacher_answers,
)
from nnfactory.factory.supernet.train import train  # noqa: E402

CLASSES, COUNT, SIDE = 6, 24, 32
TEACHING = Teaching(
    folder="pretrained", network="tiny", license="MIT", size=24, epochs=2, lr=1e-2, views=3
)
PROGRAM = """
import json, os, sys
from pathlib import Path
import numpy as np, torch
from nnfactory.factory.datasets import Images
from nnfactory.factory.supernet import teacher
from nnfactory.factory.supernet.distributed import process_group
from nnfactory.factory.supernet.recipe import Teaching

torch.set_num_threads(1)
teacher.BATCH = 8
folder = Path(sys.argv[1])
data = np.load(folder / "images.npz")
images = Images(pixels=data["pixels"], labels=data["labels"], boxes=())
teaching = Teaching(**json.loads((folder / "teaching.json").read_text()))
start = lambda images: images.mean((2, 3)).repeat(1, 2) * 50
with process_group("cpu") as group:
    found = teacher.teacher_answers(
        teaching, folder / "pretrained", images, 6, folder / "run", seed=0, start=start, group=group
    )
np.save(folder / f"rank{os.environ.get('RANK', 'alone')}.npy", found.logits)
"""
# Layer, input, output, stride, groups, activation, shape of the weights.
LAYERS = (
    ("stem", 0, 1, 2, 1, "relu6", (4, 3, 3, 3)),
    ("depthwise", 1, 2, 1, 4, "relu6", (4, 1, 3, 3)),
    ("pointwise", 2, 3, 1, 1, "none", (4, 4, 1, 1)),
    ("last", 4, 5, 2, 1, "relu6", (5, 4, 3, 3)),
)


def write_network(folder: Path, **changes: object) -> Path:
    """Four convolutions, an addition, a pool and an old head that has no weights here."""
    rng = np.random.default_rng(0)
    weights, ops = {}, []
    for name, source, result, stride, groups, activation, shape in LAYERS:
        weights |= {
            f"{name}.weight_q": rng.integers(0, 256, shape, dtype=np.uint8),
            f"{name}.weight_zero_point": np.array(rng.integers(110, 140), np.int32),
            f"{name}.weight_scale": np.array(rng.uniform(0.002, 0.006), np.float32),
            f"{name}.bias_q": rng.integers(-3000, 3000, shape[0], dtype=np.int32),
            f"{name}.bias_scale": np.array(1e-4, np.float32),
        }
        ops.append(
            {
                "op": "CONV_2D", "inputs": [source], "outputs": [result], "layer": name,
                "stride": stride, "padding": "SAME", "activation": activation, "groups": groups,
            }
        )  # fmt: skip
    ops.insert(3, {"op": "ADD", "inputs": [1, 3], "outputs": [4]})
    ops.append({"op": "AVERAGE_POOL_2D", "inputs": [5], "outputs": [6]})
    ops.append({"op": "CONV_2D", "inputs": [6], "outputs": [7], "layer": "old head"})
    folder.mkdir(exist_ok=True)
    graph = {"input": 0, "output": 7, "ops": ops, **changes}
    (folder / "tiny.graph.json").write_text(json.dumps(graph))
    save_file(weights, folder / "tiny.safetensors")
    return folder


def changed_graph(folder: Path, change) -> Path:
    graph = json.loads((folder / "tiny.graph.json").read_text())
    change(graph)
    (folder / "tiny.graph.json").write_text(json.dumps(graph))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_network(tmp_path / "pretrained")


@pytest.fixture
def images() -> Images:
    rng = np.random.default_rng(1)
    return Images(
        pixels=rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8),
        labels=np.arange(COUNT) % CLASSES,
        boxes=(),
    )


@pytest.fixture
def answers(folder, images, monkeypatch: pytest.MonkeyPatch):
    """The function ``answers(run_dir)`` that asks the tiny teacher."""
    monkeypatch.setattr(teacher, "BATCH", 8)  # three steps of fine-tuning per epoch
    torch.set_num_threads(1)

    def ask(run_dir: Path, teaching: Teaching = TEACHING, **changes) -> TeacherAnswers:
        arguments = {"folder": folder, "images": images, "classes": CLASSES, "seed": 0}
        arguments |= {"run_dir": run_dir, **changes}
        return teacher_answers(teaching, **arguments)

    return ask


def noise(n: int, side: int, seed: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def with_head(network: QuantizedNetwork) -> QuantizedNetwork:
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(3))
    return network


def convolved(x: np.ndarray, kernel: np.ndarray, stride: int, groups: int) -> np.ndarray:
    """A convolution (C, H, W) with TensorFlow's padding, pixel by pixel."""
    size, side = kernel.shape[2], x.shape[1]
    out = -(-side // stride)
    room = max((out - 1) * stride + size - side, 0)
    before = room // 2
    padded = np.pad(x, ((0, 0), *(((before, room - before),) * 2)))
    each, c_in = len(kernel) // groups, kernel.shape[1]
    result = np.zeros((len(kernel), out, out))
    for c in range(len(kernel)):
        part = padded[c // each * c_in : (c // each + 1) * c_in]
        for i in range(out):
            for j in range(out):
                window = part[:, i * stride :, j * stride :][:, :size, :size]
                result[c, i, j] = (window * kernel[c]).sum()
    return result


@pytest.mark.parametrize("side", [7, 8, 9])
def test_the_network_computes_what_its_8_bit_weights_say(folder, side):
    image = noise(1, side)
    weights = load_file(folder / "tiny.safetensors")
    values = {0: image[0].numpy().astype(np.float64) * 2 - 1}
    for name, source, result, stride, groups, activation, _ in LAYERS:
        if source == 4:
            values[4] = values[1] + values[3]
        zero, scale = weights[f"{name}.weight_zero_point"], weights[f"{name}.weight_scale"]
        kernel = (weights[f"{name}.weight_q"].astype(np.float64) - zero) * scale
        bias = weights[f"{name}.bias_q"] * np.float64(weights[f"{name}.bias_scale"])
        y = convolved(values[source], kernel, stride, groups) + bias[:, None, None]
        values[result] = y.clip(0, 6) if activation == "relu6" else y
    network = with_head(QuantizedNetwork(folder / "tiny", CLASSES))
    with torch.no_grad():
        found = network(image)[0].numpy()
        expected = network.head(torch.from_numpy(values[5].mean((1, 2))).float()).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_added_normalization_leaves_the_function_unchanged(folder):
    network = with_head(QuantizedNetwork(folder / "tiny", CLASSES)).eval()
    batch, others = noise(16, 24), noise(4, 24, seed=9)
    before, elsewhere = network(batch), network(others)
    network.add_normalization(batch)
    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert len(norms) == len(LAYERS)
    np.testing.assert_allclose(network(batch), before, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(network(others), elsewhere, rtol=1e-4, atol=1e-4)
    assert before.std() > 0.01
    network.train()  # now the batch normalizes itself: almost the same on that batch
    np.testing.assert_allclose(network(batch), before, atol=0.02 * float(before.abs().max()))
    assert not np.allclose(network(others), elsewhere, rtol=1e-3)


def test_a_new_head_starts_without_an_opinion(folder):
    network = QuantizedNetwork(folder / "tiny", CLASSES)
    assert network.head.weight.shape == (CLASSES, 5)
    with torch.no_grad():
        assert (network(noise(2, 24)) == 0).all()


def test_answers_are_those_to_the_views_and_the_same_every_time(answers, images, tmp_path: Path):
    first, second = (answers(tmp_path / name) for name in ("a", "b"))
    assert first.logits.shape == (TEACHING.views, COUNT, CLASSES)
    assert first.logits.dtype == np.float16
    assert np.isfinite(first.logits).all()
    assert len({row.tobytes() for row in first.logits.reshape(-1, CLASSES)}) > COUNT
    np.testing.assert_array_equal(first.logits, second.logits)
    other = answers(tmp_path / "c", seed=1)
    assert not np.array_equal(first.logits, other.logits)
    assert not np.array_equal(first.views[0].dx, other.views[0].dx)
    assert not np.array_equal(first.views[0].dx, first.views[1].dx)


def test_answers_of_an_untouched_network_belong_to_their_views(
    answers, images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without fine-tuning the network is known; its head is given an opinion."""
    found = answers(tmp_path / "run", dataclasses.replace(TEACHING, epochs=0))
    assert (found.logits == 0).all()  # of a head that says nothing
    network = with_head(QuantizedNetwork(tmp_path / "pretrained" / "tiny", CLASSES)).eval()
    monkeypatch.setattr(teacher, "_fine_tuned", lambda *rest: network)
    found = answers(tmp_path / "other")
    pixels = tensor_from_pixels(images.pixels)
    for view, logits in zip(found.views, found.logits, strict=True):
        larger = torch.nn.functional.interpolate(moved(pixels, view), (24, 24), mode="bilinear")
        with torch.no_grad():
            np.testing.assert_allclose(logits, network(larger), rtol=0.02, atol=0.02)  # bfloat16


def test_the_starting_network_has_its_share_of_the_answers(
    answers, images, tmp_path: Path, toy_parts
):
    start = toy_parts.supernet("cls")
    alone = answers(tmp_path / "alone")
    both = answers(tmp_path / "both", dataclasses.replace(TEACHING, own=0.25), start=start)
    pixels = tensor_from_pixels(images.pixels)
    for view, teacher_says, found in zip(both.views, alone.logits, both.logits, strict=True):
        with torch.no_grad():
            own = torch.log_softmax(start(moved(pixels, view)), 1)
        other = torch.log_softmax(torch.from_numpy(teacher_says).float(), 1)
        np.testing.assert_allclose(found, 0.75 * other + 0.25 * own, rtol=2e-3, atol=5e-3)


def test_the_starting_network_cannot_answer_after_the_start(answers, tmp_path: Path, toy_parts):
    teaching = dataclasses.replace(TEACHING, own=0.25)
    first = answers(tmp_path / "run", teaching, start=toy_parts.supernet("cls"))
    again = answers(tmp_path / "run", teaching)
    np.testing.assert_array_equal(again.logits, first.logits)
    (tmp_path / "run" / ANSWERS).unlink()
    with pytest.raises(DataError, match="is gone, and the weights"):
        answers(tmp_path / "run", teaching)


def test_a_recipe_asks_for_a_start_where_the_starting_network_teaches(toy_parts):
    recipe, teaching = toy_parts.recipe("cls"), dataclasses.replace(TEACHING, own=0.25)
    dataclasses.replace(recipe, teacher=teaching, init="toy")
    with pytest.raises(DataError, match="needs a library that the training starts from"):
        dataclasses.replace(recipe, teacher=teaching)
    for wrong in (-0.1, 1.0):
        with pytest.raises(DataError, match=r"own must be in \[0, 1\)"):
            dataclasses.replace(TEACHING, own=wrong)


def test_fine_tuning_is_reported_and_answers_are_read_again(answers, tmp_path: Path):
    steps: list[tuple[int, int]] = []
    first = answers(tmp_path / "run", report=lambda *row: steps.append(row))
    assert steps == [(step, 6) for step in range(1, 7)]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [ANSWERS]
    steps.clear()
    again = answers(
        tmp_path / "run", folder=tmp_path / "gone", report=lambda *row: steps.append(row)
    )
    assert not steps
    np.testing.assert_array_equal(again.logits, first.logits)
    for mine, other in zip(again.views, first.views, strict=True):
        for name in ("dy", "dx", "flip"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))


@pytest.mark.parametrize("shape", [(2, COUNT, CLASSES), (3, COUNT - 1, CLASSES), (3, COUNT, 7)])
def test_answers_of_another_shape_are_refused(answers, tmp_path: Path, shape):
    origin = json.dumps([dataclasses.asdict(TEACHING), 0])
    np.savez(tmp_path / ANSWERS, logits=np.zeros(shape, np.float16), origin=np.array(origin))
    with pytest.raises(DataError, match="belongs to another teacher or other data") as caught:
        answers(tmp_path)
    assert caught.value.hints == ("delete it",)


def test_answers_of_another_teacher_or_seed_are_refused(answers, tmp_path: Path):
    answers(tmp_path)
    with pytest.raises(DataError, match="belongs to another teacher"):
        answers(tmp_path, dataclasses.replace(TEACHING, lr=9.0))
    with pytest.raises(DataError, match="belongs to another teacher"):
        answers(tmp_path, seed=5)
    (tmp_path / ANSWERS).write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot be read"):
        answers(tmp_path)


def test_too_few_images_for_one_batch_are_refused(answers, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(teacher, "BATCH", COUNT + 1)
    with pytest.raises(DataError, match="needs at least"):
        answers(tmp_path)


def test_a_drawn_view_comes_with_its_own_answer(answers, tmp_path: Path, rng):
    found = answers(tmp_path / "run")
    index = np.array([5, 0, 23, 5, 7] * 8)
    views, logits = found.draw(index, rng)
    seen = set()
    for row, image in enumerate(index):
        matches = [
            number
            for number, view in enumerate(found.views)
            if (view.dy[image], view.dx[image], view.flip[image])
            == (views.dy[row], views.dx[row], views.flip[row])
        ]
        assert any(np.array_equal(logits[row], found.logits[number, image]) for number in matches)
        seen |= set(matches)
    assert seen == set(range(TEACHING.views))
    assert views.flip.dtype == bool


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "tiny.graph.json").unlink(),
        lambda folder: (folder / "tiny.safetensors").unlink(),
        lambda folder: (folder / "tiny.safetensors").write_bytes(b"nothing of use"),
        lambda folder: (folder / "tiny.graph.json").write_text("{"),
        lambda folder: (folder / "tiny.graph.json").write_text("{}"),
        lambda folder: (folder / "tiny.graph.json").write_text("[]"),
        lambda folder: changed_graph(folder, lambda graph: graph["ops"].clear()),
        lambda folder: changed_graph(folder, lambda graph: graph["ops"].__delitem__(5)),
        lambda folder: changed_graph(folder, lambda graph: graph["ops"][0].update(layer="none")),
        lambda folder: changed_graph(
            folder, lambda graph: graph.update(ops=[{"op": "POOL", "inputs": [0], "outputs": [1]}])
        ),
    ],
)
def test_files_that_are_no_such_network_are_refused(answers, folder, tmp_path: Path, change):
    change(folder)
    with pytest.raises(DataError, match="is no 8-bit network"):
        answers(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_operator_is_refused(answers, folder, tmp_path: Path):
    changed_graph(folder, lambda graph: graph["ops"][3].update(op="SOFTMAX"))
    with pytest.raises(DataError, match="Operator 'SOFTMAX' of a teacher is not known"):
        answers(tmp_path / "run")
    assert not (tmp_path / "run").exists()


# In training


@pytest.fixture
def data(images, toy_parts) -> DataSet:
    return DataSet(
        classes=toy_parts.classes["cls"], wordnet=(), train=images, validation=images, test=images
    )


def test_a_supernet_is_trained_with_its_teacher_and_resumed(
    toy_parts, data, folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(teacher, "BATCH", 8)
    torch.set_num_threads(1)
    recipe = dataclasses.replace(toy_parts.recipe("cls"), teacher=TEACHING)
    seen = []
    whole = train(
        recipe, data, tmp_path / "whole", teacher_dir=folder,
        report=lambda status: seen.append((status.phase, status.step, status.steps)),
    )  # fmt: skip
    assert seen == [("teacher", step, 6) for step in range(1, 7)] + [
        ("training", step, 6) for step in range(1, 7)
    ]
    assert (tmp_path / "whole" / ANSWERS).exists()

    def interrupt(status) -> None:
        if (status.phase, status.step) == ("training", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, data, tmp_path / "parts", teacher_dir=folder, report=interrupt)
    (folder / "tiny.safetensors").unlink()  # its answers are there
    resumed = train(recipe, data, tmp_path / "parts", teacher_dir=folder, resume=True)
    alone = train(toy_parts.recipe("cls"), data, tmp_path / "alone")
    states = [network.state_dict() for network in (whole, resumed, alone)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_a_recipe_with_a_teacher_needs_its_files(toy_parts, data, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(teacher, "BATCH", 8)
    recipe = dataclasses.replace(toy_parts.recipe("cls"), teacher=TEACHING)
    with pytest.raises(DataError, match="pass the folder of its files"):
        train(recipe, data, tmp_path / "run")
    with pytest.raises(DataError, match="is no 8-bit network"):
        train(recipe, data, tmp_path / "run", teacher_dir=tmp_path)


def test_half_of_the_loss_is_the_distance_from_the_teacher(
    toy_parts, data, answers, tmp_path: Path
):
    settings = toy_parts.recipe("cls", temperature=3.0).training
    network = toy_parts.supernet("cls")
    found = answers(tmp_path / "run")
    objective = objective_for(network, settings, found)
    index = np.arange(8)
    inputs, targets = objective.batch(data.train, index, np.random.default_rng(4), 0.0)
    views, logits = found.draw(index, np.random.default_rng(4))
    assert torch.equal(targets, torch.from_numpy(data.train.labels[index]))
    mine = network(inputs).detach()
    labels = torch.nn.functional.cross_entropy(mine, targets)
    near = divergence(mine, torch.from_numpy(logits).float(), 3.0)
    assert float(objective.full_loss(inputs, targets).detach()) == pytest.approx(
        float(0.5 * labels + 0.5 * near), rel=1e-5
    )
    soft, hard = (torch.log_softmax(x / 3.0, 1) for x in (torch.from_numpy(logits).float(), mine))
    by_hand = 9 * (soft.exp() * (soft - hard)).sum(1).mean()
    assert float(near) == pytest.approx(float(by_hand), rel=1e-4)
    assert len(views.dx) == 8


@pytest.mark.parametrize("epochs", [0, 2])
def test_two_processes_share_the_work_and_know_all_answers(
    folder, images, launch, tmp_path: Path, epochs: int
):
    np.savez(tmp_path / "images.npz", pixels=images.pixels, labels=images.labels)
    teaching = dataclasses.replace(TEACHING, epochs=epochs, own=0.5)
    (tmp_path / "teaching.json").write_text(json.dumps(dataclasses.asdict(teaching)))
    launch(PROGRAM, tmp_path)
    both = [np.load(tmp_path / f"rank{rank}.npy") for rank in range(2)]
    np.testing.assert_array_equal(both[0], both[1])
    with np.load(tmp_path / "run" / ANSWERS) as file:
        np.testing.assert_array_equal(file["logits"], both[0])
    (tmp_path / "run" / ANSWERS).unlink()
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True, timeout=120)
    alone = np.load(tmp_path / "rankalone.npy")
    assert np.ptp(alone) > 0.1
    if epochs:  # batches are normalized in halves, so training differs a little
        assert not np.array_equal(alone, both[0])
    else:
        np.testing.assert_array_equal(alone, both[0])
