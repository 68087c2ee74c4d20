"""What is done with an artifact: verify, inspect, load, bench."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_host import FakeHost
from toy_answers import install

import nnfactory
from nnfactory import api
from nnfactory.factory.errors import (
    DataError,
    DeviceError,
    VerificationError,
)
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.schema import Budget, LatencyTable

ROOT = Path(__file__).resolve().parents[2]
Tables = Callable[..., LatencyTable]
pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def artifact(toy_library: ModuleLibrary, host: FakeHost) -> Path:
    result = api.build(task=toy_library.kind, device="host", library=str(toy_library.folder))
    return Path(result.artifact.folder)


def test_verify_passes_on_a_fresh_artifact(artifact: Path):
    checks = api.verify(artifact)
    assert [check.name for check in checks if check.passed is False] == []
    names = {check.name for check in checks}
    assert {"files", "network", "preprocess", "output", "answer", "library"} <= names
    assert checks[-1].text == "not installed here; not compared"


def test_verify_links_the_plan_again_where_its_library_is_installed(
    artifact: Path, toy_library: ModuleLibrary
):
    install(toy_library)
    check = api.verify(artifact)[-1]
    assert (check.name, check.passed) == ("library", True)
    assert check.text.startswith("linked again")


def test_verify_does_not_compare_with_another_version_of_the_library(
    artifact: Path, toy_library: ModuleLibrary
):
    card = install(toy_library) / "library.toml"
    card.write_text("# a later version\n" + card.read_text())
    check = api.verify(artifact)[-1]
    assert check.passed is None
    assert "another version" in check.text


def test_verify_with_few_classes_links_again(toy_det: ModuleLibrary, host: FakeHost):
    install(toy_det)
    result = api.build(task="det", device="host", classes=["Nut", "Bolt"])
    check = api.verify(Path(result.artifact.folder))[-1]
    assert check.passed
    assert check.text.startswith("linked again")


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "golden/output.npy", "manifest.json"])
def test_verify_names_the_file_that_was_changed(artifact: Path, name: str):
    content = (artifact / name).read_bytes()
    (artifact / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(VerificationError, match=name.replace(".", r"\.")):
        api.verify(artifact)


def test_inspected_numbers_are_those_of_the_estimate(toy_library: ModuleLibrary, host: FakeHost):
    for number, sparsity in enumerate((0.0, 0.5)):
        result = api.build(
            task=toy_library.kind, device="host", library=str(toy_library.folder),
            budget=Budget(sparsity=sparsity), out_dir=Path(str(number)),
        )  # fmt: skip
        facts = api.inspect(Path(str(number)))
        assert facts["parameters"] == round(result.estimate.mparams * 1e6)
        assert facts["macs"] == round(result.estimate.mmacs * 1e6)
        # The estimate counts the tensors of the classes at full size.
        assert facts["peak_memory_bytes"] <= result.estimate.memory_mib * 2**20 + 1
        assert facts["peak_memory_bytes"] >= 0.8 * result.estimate.memory_mib * 2**20
        assert facts["inputs"] == {"images": [1, 3, toy_library.input_size, toy_library.input_size]}
        assert facts["manifest"]["plan"]["id"] == result.plan.id
        assert json.loads(json.dumps(facts)) == facts


def test_inspect_of_a_single_file_has_no_manifest(artifact: Path):
    facts = api.inspect(artifact / "model.onnx")
    assert facts["manifest"] is None
    assert facts == {**api.inspect(artifact), "manifest": None}


def test_load_gives_a_runtime_that_answers(artifact: Path, toy_library: ModuleLibrary):
    runtime = nnfactory.load(artifact, threads=1)
    image: np.ndarray = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    results = runtime(image)
    assert list(results.names.values()) == list(toy_library.classes)
    if toy_library.kind == "cls":
        assert results.probs is not None
        assert results.probs.data.sum() == pytest.approx(1, abs=1e-4)
    else:
        assert results.boxes is not None
        assert results.boxes.xyxy.shape == (len(results.boxes), 4)
    assert set(results.speed) == {"preprocess", "inference", "postprocess"}


@pytest.mark.parametrize("verb", [api.verify, api.inspect, api.load, api.bench])
def test_folder_without_an_artifact_is_a_data_error(verb: Callable[[Path], object], folder: Path):
    with pytest.raises(DataError, match="no artifact"):
        verb(folder)


@pytest.mark.parametrize("verb", [api.inspect, api.load, api.bench])
def test_file_that_is_no_network_is_a_data_error(verb: Callable[[Path], object], folder: Path):
    (folder / "model.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="no valid ONNX model"):
        verb(folder / "model.onnx")


def test_onnx_file_of_someone_else_can_be_inspected_but_not_loaded(
    toy_cls: ModuleLibrary, folder: Path
):
    file = toy_cls.folder / "supernet.onnx"
    assert api.inspect(file)["metadata"] == {}
    with pytest.raises(DataError, match="metadata"):
        api.load(file)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\nbroken"])
def test_broken_image_is_a_data_error(artifact: Path, folder: Path, content: bytes):
    (folder / "photo.png").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as an image"):
        api.run(artifact, folder / "photo.png")


def test_truncated_image_is_a_data_error(artifact: Path, folder: Path):
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")
    (folder / "photo.jpg").write_bytes((folder / "photo.jpg").read_bytes()[:700])
    with pytest.raises(DataError, match="cannot be read as an image"):
        api.run(artifact, folder / "photo.jpg")


def test_bench_for_a_board_says_how_to_measure_there(artifact: Path):
    with pytest.raises(DeviceError, match="not at hand") as caught:
        api.bench(artifact, device="jetson")
    assert any("scp" in hint for hint in caught.value.hints)
    assert any("build_engine.py" in hint for hint in caught.value.hints)


def test_bench_measures_an_artifact_and_a_file(artifact: Path, host: FakeHost):
    host.sizes.clear()
    assert api.bench(artifact, threads=2).threads == 2
    assert api.bench(artifact / "model.onnx").n == 20
    assert host.sizes[0] == host.sizes[1] == (artifact / "model.onnx").stat().st_size
