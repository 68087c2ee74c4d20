"""Reassembly end to end: imported networks in, a proven artifact out."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import Result
from colored_photos import write_photos
from onnx import TensorProto, helper, numpy_helper

from nnfactory import api
from nnfactory.devices.profile import PROFILES, load_profile
from nnfactory.exporters.bundle import read_manifest
from nnfactory.factory.errors import BudgetError, DataError, DeviceError, UsageError
from nnfactory.factory.schema import Budget

NAMES = ("resnet8", "resnet20")
pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


@pytest.fixture
def photos(imported_resnets: tuple[str, ...], folder: Path) -> Path:
    """Two imported networks; a folder of images of three classes that differ in color."""
    return write_photos(folder / "photos", ("blue", "green", "red"), 16)


def test_a_reassembly_is_an_artifact_like_any_other(photos: Path, run: Run):
    made = api.reassemble(NAMES, photos, budget=Budget(mparams=0.2), blocks=3, out_dir=Path("made"))
    result = made.result
    assert result.estimate.mparams <= 0.2
    assert len(made.blocks) == 3
    assert made.candidates[0].judged == max(view.judged for view in made.candidates)
    assert result.certificate.bound >= result.certificate.objective
    assert all(parity.passed for parity in result.parity)
    assert result.accuracy[0].interval.n == 12
    assert result.accuracy[0].interval.value > 0.5
    assert api.verify(Path("made"))
    manifest = json.loads(Path("made/manifest.json").read_text())
    used = {view.donor for view in made.blocks}
    assert {part["id"] for part in manifest["assembly"]["modules"]} == used
    assert sum(part["active"] for part in manifest["assembly"]["modules"]) == 3
    assert "blocks of" in Path("made/README.md").read_text()
    answer = run("run", "made", str(photos / "red" / "0.png"), "--json")
    assert answer.exit_code == 0, answer.output


def test_stitches_between_donors_are_in_the_network(photos: Path):
    """Of all ways that are tried the mixed ones have stitches, and their size is counted."""
    made = api.reassemble(NAMES, photos, blocks=2, out_dir=Path("made"))
    assert len(made.candidates) == 4
    assert {len(set(view.donors)) for view in made.candidates} == {1, 2}
    whole = {view.donors: view.mparams for view in made.candidates}
    mixed = whole["resnet8", "resnet20"] + whole["resnet20", "resnet8"]
    assert mixed > whole["resnet8", "resnet8"] + whole["resnet20", "resnet20"]


def test_a_board_is_estimated(photos: Path):
    made = api.reassemble(
        NAMES, photos, device="jetson", budget=Budget(latency_ms=5.0), out_dir=Path("made")
    )
    assert made.result.measurement is None
    assert 0 < made.result.estimate.latency_ms.value <= 5


def test_latency_and_memory_are_measured_on_this_machine(photos: Path):
    budget = Budget(latency_ms=50.0, memory_mib=3.0)
    made = api.reassemble(NAMES, photos, budget=budget, out_dir=Path("made"))
    measured = made.result.measurement
    assert measured.percentile(50) < 50
    assert measured.memory_mib <= 3


def test_what_cannot_be_kept_names_the_least(photos: Path, run: Run):
    words = ["--pool", ",".join(NAMES), "--data", str(photos), "--blocks", "3"]
    refused = run("reassemble", *words, "--params", "0.01M")
    assert refused.exit_code == 3
    hint = refused.stderr.split("--params")[1].split()[0]
    finished = run("reassemble", *words, "--params", hint, "--json")
    assert finished.exit_code == 0, finished.stderr
    table = json.loads(finished.stdout)
    assert len(table["blocks"]) == 3
    assert table["estimate"]["mparams"] <= 0.1
    with pytest.raises(BudgetError, match="memory <= 0.1 MiB"):
        api.reassemble(NAMES, photos, budget=Budget(memory_mib=0.1))


def test_licenses_and_donors_limit_the_pool(photos: Path, run: Run):
    licensed = api.reassemble(
        NAMES, photos, licenses=("apache-2.0",), blocks=2, out_dir=Path("one")
    )
    assert licensed.donors == ("resnet8",)
    asked = read_manifest(Path("one"))["budgets"]["asked"]
    assert asked["licenses"] == ["apache-2.0"]
    assert "donors" not in asked
    alone = api.reassemble(NAMES, photos, most_donors=1, blocks=2, out_dir=Path("two"))
    assert all(len(set(view.donors)) == 1 for view in alone.candidates)
    assert read_manifest(Path("two"))["budgets"]["asked"]["donors"] == 1
    with pytest.raises(UsageError, match="allowed license"):
        api.reassemble(NAMES, photos, licenses=("GPL-3.0",))
    with pytest.raises(UsageError, match="knows limits"):
        api.reassemble(NAMES, photos, budget=Budget(sparsity=0.5))


def test_the_command_tells_people(photos: Path, run: Run):
    words = ["--pool", ",".join(NAMES), "--data", str(photos), "--out", "made"]
    finished = run("reassemble", *words, "--classes", "red,blue")
    assert finished.exit_code == 0, finished.stderr
    for text in ("2 classes at 32 px", "blocks", "measured top-1", "no way is worth more",
                 "nnfactory run made IMAGE"):  # fmt: skip
        assert text in " ".join(finished.stdout.split())


def test_finishing_trains_and_says_what_it_did(photos: Path, run: Run):
    pytest.importorskip("torch")
    words = ["--pool", ",".join(NAMES), "--data", str(photos), "--out", "made", "--blocks", "2"]
    finished = run("reassemble", *words, "--params", "0.1M", "--finish", "1", "--json")
    assert finished.exit_code == 0, finished.stderr
    table = json.loads(finished.stdout)["finish"]
    assert table["epochs"] == 1
    assert table["is_kept"] == (table["after"] > table["before"])
    assert api.verify(Path("made"))
    assert "trained for 1 pass over" in Path("made/README.md").read_text()


def test_finishing_without_torch_says_what_to_install(
    photos: Path, run: Run, monkeypatch: pytest.MonkeyPatch
):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec",
        lambda name, *rest: None if name == "torch" else found(name, *rest),
    )  # fmt: skip
    words = ["--pool", ",".join(NAMES), "--data", str(photos), "--blocks", "2"]
    refused = run("reassemble", *words, "--finish", "1", "--out", "made")
    assert refused.exit_code == 8
    assert "nnfactory[train]" in refused.stderr
    assert not Path("made").exists()


def test_vectors_and_tokens_do_not_spoil_a_pool(photos: Path, folder: Path):
    """A network with a hidden linear layer, and one whose tokens are no maps, are usable."""
    rng = np.random.default_rng(0)
    sizes = {"a": (8, 3, 3, 3), "b": (8, 8, 3, 3), "c": (16, 8), "d": (12, 16), "e": (4, 12)}
    weights = {name: rng.normal(0, 0.2, size).astype(np.float32) for name, size in sizes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["p"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["p"], ["q"]),
        helper.make_node("Conv", ["q", "b"], ["r"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["r"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["t"]),
        helper.make_node("Flatten", ["t"], ["u"]),
        helper.make_node("Gemm", ["u", "c"], ["v"], transB=1),
        helper.make_node("Relu", ["v"], ["w"]),
        helper.make_node("Gemm", ["w", "d"], ["y"], transB=1),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Gemm", ["z", "e"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "hidden",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, "hidden.onnx")
    api.import_network(
        Path("hidden.onnx"), name="hidden", labels=tuple("abcd"), mean=(0, 0, 0), std=(1, 1, 1)
    )
    made = api.reassemble(("hidden", "resnet8"), photos, blocks=3, out_dir=Path("made"))
    assert ("hidden",) * 3 in {view.donors for view in made.candidates}


def test_two_networks_of_one_name_are_refused(photos: Path, folder: Path):
    from nnfactory.factory.reuse.store import donor_folder

    shutil.copytree(donor_folder("resnet8"), folder / "other")
    with pytest.raises(UsageError, match="have one name"):
        api.reassemble(("resnet8", folder / "other"), photos)


def test_a_network_that_cannot_be_trained_is_refused_before_the_work(
    photos: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("torch")
    from nnfactory.factory.reuse.training import finish

    monkeypatch.setattr(finish, "OPS", {})
    with pytest.raises(DataError, match="'resnet8' cannot be trained: Add is not known"):
        api.reassemble(NAMES, photos, blocks=2, epochs=1)


def test_a_board_that_nothing_is_known_about_is_refused_before_the_work(photos: Path, folder: Path):
    profile = load_profile("jetson")
    (folder / "abacus.toml").write_text(
        (PROFILES / f"{profile.name}.toml").read_text().replace(profile.name, "abacus")
    )
    with pytest.raises(DeviceError, match="Nothing is known about latency"):
        api.reassemble(NAMES, folder / "nowhere", device="abacus.toml")
