"""Artifact folders: whole or not there, and every change is noticed."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnfactory.exporters import bundle, metadata
from nnfactory.factory.errors import (
    DataError,
    PrecisionError,
    UsageError,
    VerificationError,
)
from nnfactory.factory.schema import Parity


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def artifact(shared_artifact, tmp_path):
    return Path(shutil.copytree(shared_artifact, tmp_path / "artifact"))


def test_folder_holds_the_promised_files(shared_artifact):
    assert set(snapshot(shared_artifact)) == {
        "manifest.json", "model.onnx", "labels.txt", "preprocess.json", "README.md", "SHA256SUMS",
        "build_engine.py", "python/nnf_runtime.py", "bench/host-cpu.json", "golden/input.png",
        "golden/input.npy", "golden/output.npy", "golden/answer.json",
    }  # fmt: skip
    labels = (shared_artifact / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert labels == bundle.read_manifest(shared_artifact)["classes"]


def test_manifest_has_the_documented_keys(shared_artifact):
    manifest = bundle.check_artifact(shared_artifact)
    assert set(manifest) == set(
        "schema name created nnfactory task inputs outputs preprocess postprocess classes budgets "
        "measured estimated plan accuracy precision parity assembly files provenance".split()
    )
    assert manifest["inputs"] == [{"name": "images", "dtype": "float32", "shape": [1, 3, 64, 64]}]
    assert manifest["parity"][0]["pass"] is True
    assert manifest["plan"]["slots"] == {"stage0.block0": [0, 2], "stage0.block1": []}
    assert manifest["plan"]["input_size"] == 64


def test_measured_and_estimated_numbers_stay_apart(toy, tmp_path):
    whole = toy.contents()
    bundle.write_artifact(tmp_path / "none", dataclasses.replace(whole, measurements=()))
    manifest = bundle.read_manifest(tmp_path / "none")
    assert manifest["measured"] == []
    assert manifest["estimated"][0]["latency_ms"]["value"] == 2.0
    estimate = dataclasses.replace(whole.estimate, latency_ms=None)
    two = whole.measurements * 2
    bundle.write_artifact(
        tmp_path / "two", dataclasses.replace(whole, estimate=estimate, measurements=two)
    )
    manifest = bundle.read_manifest(tmp_path / "two")
    assert manifest["estimated"] == []
    assert [entry["samples"] for entry in manifest["measured"]] == [
        "bench/host-cpu.json", "bench/host-cpu-2.json",
    ]  # fmt: skip
    samples = json.loads((tmp_path / "two" / "bench/host-cpu.json").read_text())["samples_ms"]
    assert manifest["measured"][0]["p50_ms"] == pytest.approx(np.percentile(samples, 50))
    assert manifest["measured"][0]["n"] == len(samples)


def test_every_single_damaged_file_is_named(artifact):
    for name in snapshot(artifact):
        path = artifact / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(VerificationError, match=re.escape(name)):
            bundle.check_artifact(artifact)
        path.unlink()
        with pytest.raises(VerificationError, match=re.escape(name)):
            bundle.check_artifact(artifact)
        path.write_bytes(content)
    bundle.check_artifact(artifact)


@pytest.mark.parametrize(
    "text", [None, "{", "[]", "{}", '{"schema": 1, "files": {"a": 1}, "plan": {"id": "x"}}']
)
def test_folder_that_is_no_artifact_is_a_data_error(tmp_path, text):
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="no artifact"):
        bundle.check_artifact(tmp_path)
    with pytest.raises(DataError):
        bundle.check_artifact(tmp_path / "absent")


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside"])
def test_manifest_that_points_outside_is_refused(tmp_path, name):
    files = {name: {"sha256": "0" * 64, "bytes": 1}}
    table = {"schema": 1, "files": files, "plan": {"id": "x"}}
    (tmp_path / "manifest.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="outside"):
        bundle.check_artifact(tmp_path)


def test_intact_artifact_of_the_same_plan_is_replaced(toy, tmp_path):
    place = tmp_path / "a"
    bundle.write_artifact(place, toy.contents(name="first"))
    bundle.write_artifact(place, toy.contents(name="second"))
    assert bundle.check_artifact(place)["name"] == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def _other_plan(place, toy):
    bundle.write_artifact(place, toy.contents(seed=7))


def _changed(place, toy):
    bundle.write_artifact(place, toy.contents())
    (place / "labels.txt").write_text("other\n")


def _with_a_note(place, toy):
    bundle.write_artifact(place, toy.contents())
    (place / "notes.txt").write_text("mine")


def _folder(place, toy):
    place.mkdir()
    (place / "thesis.tex").write_text("years of work")


def _file(place, toy):
    place.write_text("a file")


@pytest.mark.parametrize("make", [_other_plan, _changed, _with_a_note, _folder, _file])
def test_anything_else_needs_overwrite(toy, tmp_path, make):
    place = tmp_path / "a"
    make(place, toy)
    before = snapshot(tmp_path)
    with pytest.raises(UsageError) as caught:
        bundle.write_artifact(place, toy.contents())
    assert caught.value.exit_code == 2
    assert "--overwrite" in caught.value.hints[0]
    assert snapshot(tmp_path) == before
    bundle.write_artifact(place, toy.contents(), overwrite=True)
    bundle.check_artifact(place)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_empty_folder_is_filled_and_link_is_not_followed(toy, tmp_path):
    (tmp_path / "empty").mkdir()
    bundle.write_artifact(tmp_path / "empty", toy.contents())
    bundle.check_artifact(tmp_path / "empty")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mine").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    bundle.write_artifact(tmp_path / "link", toy.contents(), overwrite=True)
    assert (tmp_path / "real" / "mine").read_text() == "kept"
    bundle.check_artifact(tmp_path / "link")


def test_current_folder_is_never_replaced(toy, tmp_path, monkeypatch):
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")
    for place in (Path(), Path(".."), tmp_path / "work"):
        with pytest.raises(UsageError, match="current or home"):
            bundle.write_artifact(place, toy.contents(), overwrite=True)


@pytest.mark.parametrize("step", ["write_golden", "_move"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_half_written_stays(toy, tmp_path, monkeypatch, step, error):
    place = tmp_path / "a"
    bundle.write_artifact(place, toy.contents())
    before = snapshot(tmp_path)

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(bundle, step, fail)
    for target in (place, tmp_path / "b"):
        with pytest.raises(UsageError if isinstance(error, OSError) else KeyboardInterrupt):
            bundle.write_artifact(target, toy.contents())
    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_failed_move_puts_the_old_artifact_back(toy, tmp_path, monkeypatch):
    place = tmp_path / "a"
    bundle.write_artifact(place, toy.contents())
    before = snapshot(tmp_path)
    rename = Path.rename

    def fail_into_place(self: Path, target: Path) -> Path:
        if self.name.startswith(".a.") and not self.name.endswith(".old"):
            raise OSError("no such luck")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_into_place)
    with pytest.raises(UsageError, match="no such luck"):
        bundle.write_artifact(place, toy.contents())
    assert snapshot(tmp_path) == before


def test_unwritable_place_is_a_usage_error(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        bundle.write_artifact(tmp_path / "file" / "a", toy.contents())


def test_parts_that_do_not_belong_together_are_refused(toy, tmp_path):
    place = tmp_path / "a"
    with pytest.raises(DataError, match="not that of plan"):
        bundle.write_artifact(place, toy.contents(network=toy.bytes(toy.plan(seed=3))))
    failed = (Parity(a="masked", b="linked", n=1, max_abs=0.5, tolerance=1e-4),)
    with pytest.raises(VerificationError, match=r"differ by 0\.5"):
        bundle.write_artifact(place, toy.contents(parity=failed))
    half = toy.network(weight_type=np.float16)
    metadata.apply_metadata_(half, toy.metadata(toy.plan()))
    with pytest.raises(PrecisionError, match="fp16"):
        bundle.write_artifact(place, toy.contents(network=half.SerializeToString()))
    assert list(tmp_path.iterdir()) == []


def test_commands_of_the_readme_work_inside_the_folder(artifact):
    text = (artifact / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(.*?)```", text, re.S)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    script = script.replace("python3", sys.executable)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "OMP_NUM_THREADS": "1"
    }
    for command in (["bash", "-ec", script], [sys.executable, "-c", code]):
        done = subprocess.run(
            command, cwd=artifact, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert "confidence" in done.stdout
    assert len(code.strip().splitlines()) == 4


def test_readme_names_licenses_and_tells_estimates_apart(shared_artifact):
    text = (shared_artifact / "README.md").read_text(encoding="utf-8")
    front = text.split("---")[1]
    assert 'license: "mit"' in front
    assert "model-index" not in front  # the library's accuracy is not this network's
    measured, estimated = text.split("### Measured")[1].split("### Estimated")
    assert "PASS" in measured
    assert "jetson-orin-nano" not in measured
    assert "latency p90, tensorrt fp16 | 2 ms" in estimated.split("## Accuracy")[0]
    assert "[40.0%, 60.0%], 95% | 300" in text
    assert "drawn shapes" in text
