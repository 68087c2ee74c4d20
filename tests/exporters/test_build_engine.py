"""The script that builds an engine on the board, with a fake TensorRT."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnfactory.exporters.runtime import build_engine


class FakeTensorRT(SimpleNamespace):
    """As much of the module as the script uses; notes every call."""

    def __init__(self, version: str, *, parses: bool = True, builds: bool = True) -> None:
        major = int(version.split(".")[0])
        self.calls: list[object] = []
        flags = {"EXPLICIT_BATCH": 0} if major < 10 else {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
        precisions = {"TF32": "TF32"} if major >= 11 else {"TF32": "TF32", "FP16": "FP16"}
        note = self.calls.append
        config = SimpleNamespace(
            set_flag=lambda flag: note(("set", flag)),
            clear_flag=lambda flag: note(("clear", flag)),
            set_memory_pool_limit=lambda pool, size: note((pool, size)),
        )
        builder = SimpleNamespace(
            create_network=lambda mask: note(("network", mask)),
            create_builder_config=lambda: config,
            build_serialized_network=lambda network, config: b"an engine" if builds else None,
        )
        parser = SimpleNamespace(
            parse=lambda content: parses, num_errors=1, get_error=lambda i: "unsupported node"
        )
        super().__init__(
            __version__=version,
            Logger=type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None}),
            Builder=lambda logger: builder,
            OnnxParser=lambda network, logger: parser,
            NetworkDefinitionCreationFlag=SimpleNamespace(**flags),
            BuilderFlag=SimpleNamespace(**precisions),
            MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        )


@pytest.fixture
def onnx_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a network")
    return path


@pytest.fixture
def build(onnx_file, monkeypatch):
    """Run the script with a TensorRT and arguments; the exit code."""
    monkeypatch.setattr(build_engine, "compute_capability", lambda: "87")

    def run(trt: FakeTensorRT | None, *words: str) -> int:
        monkeypatch.setattr(build_engine, "tensorrt_module", lambda: trt)
        out = ["--onnx", str(onnx_file), "--out", str(onnx_file.parent / "engines")]
        return build_engine.main([*out, *words])

    return run


def sidecar_of(folder: Path) -> dict:
    paths = sorted((folder / "engines").iterdir())
    assert [path.suffix for path in paths] == [".json", ".plan"]
    assert paths[1].read_bytes() == b"an engine"
    return json.loads(paths[0].read_text())


@pytest.mark.parametrize("version", ["10.3.0", "11.4.1"])
def test_build_is_strongly_typed_from_tensorrt_10_on(build, tmp_path, version):
    trt = FakeTensorRT(version)
    assert build(trt) == 0
    assert trt.calls == [("network", 2)]
    sidecar = sidecar_of(tmp_path)
    assert sidecar["precision"] == {"requested": "fp32", "typing": "strong: the types in the graph"}
    assert (sidecar["tensorrt"], sidecar["sm"], sidecar["tf32_allowed"]) == (version, "87", True)
    assert sidecar["onnx"]["sha256"] == hashlib.sha256(b"a network").hexdigest()
    assert sidecar["engine"]["file"] == f"model-fp32-trt{version}-sm87.plan"


@pytest.mark.parametrize(("version", "mask"), [("8.5.2.2", 1), ("10.3.0", 0)])
def test_fp16_is_a_flag_before_tensorrt_11_and_the_sidecar_says_so(build, tmp_path, version, mask):
    trt = FakeTensorRT(version)
    assert build(trt, "--fp16", "--no-tf32", "--workspace-mib", "512") == 0
    expected = [("network", mask), ("workspace", 512 * 2**20), ("set", "FP16"), ("clear", "TF32")]
    assert trt.calls == expected
    sidecar = sidecar_of(tmp_path)
    assert sidecar["precision"]["typing"].startswith("weak")
    words = shlex.split(sidecar["trtexec"])
    assert {"--fp16", "--noTF32", "--memPoolSize=workspace:512"} <= set(words)
    assert "--stronglyTyped" not in words


def test_tensorrt_8_without_fp16_uses_explicit_batch(build, tmp_path):
    trt = FakeTensorRT("8.5.2.2")
    assert build(trt) == 0
    assert trt.calls == [("network", 1)]
    assert "--stronglyTyped" not in sidecar_of(tmp_path)["trtexec"]


def test_fp16_with_tensorrt_11_exits_7(build, capsys, tmp_path):
    assert build(FakeTensorRT("11.4.1"), "--fp16") == 7
    assert "must be in the graph" in capsys.readouterr().err
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    ("fake", "words"),
    [({"parses": False}, "unsupported node"), ({"builds": False}, "built no engine")],
)
def test_failed_build_exits_1_and_leaves_no_file(build, capsys, tmp_path, fake, words):
    assert build(FakeTensorRT("10.3.0", **fake)) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "engines").exists()


def test_missing_tensorrt_exits_8_and_says_what_to_install(build, capsys):
    assert build(None) == 8
    assert "python3-libnvinfer" in capsys.readouterr().err


def test_missing_network_exits_9(build, onnx_file, capsys):
    onnx_file.unlink()
    assert build(FakeTensorRT("10.3.0")) == 9
    assert "no network" in capsys.readouterr().err


def test_dry_run_prints_the_command_alone(build, capsys, tmp_path):
    assert build(None, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert printed == (
        "trtexec --onnx=model.onnx --saveEngine=engines/model-fp32.plan --stronglyTyped\n"
    )
    assert not (tmp_path / "engines").exists()


def test_line_of_the_readme_is_the_line_of_the_script(shared_artifact):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-S", str(shared_artifact / "build_engine.py"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (shared_artifact / "README.md").read_text(encoding="utf-8")
