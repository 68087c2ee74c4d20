#!/usr/bin/env python3
"""Build the TensorRT engine of this artifact, on the board that will run it.

    python3 build_engine.py             builds engines/<key>.plan and engines/<key>.json
    python3 build_engine.py --dry-run   prints the trtexec command that does the same, no more

Python 3.8 or later and TensorRT 8, 10 or 11; nothing else. An engine works on the kind of board
and with the TensorRT version it was built with, so it is built there and not shipped.

From TensorRT 10 on the build is strongly typed: the types in ``model.onnx`` are the types that
run. It holds float32, so the engine computes in float32 (matrix products in TF32 where the
board has it, unless --no-tf32 is given). --fp16 lets TensorRT 8 and 10 choose FP16 layer by layer
instead (weakly typed; the sidecar says so); TensorRT 11 has no such flag any more.

Exit codes: 0 built, 1 the build failed, 2 usage, 7 precision not available, 8 TensorRT missing,
9 no network.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import hashlib
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Sequence

MIB = 2**20
ASSUMED_MAJOR = 10  # for --dry-run where TensorRT is not installed
MISSING = """error: Building an engine needs TensorRT's Python module, which is not installed.
  on a Jetson: sudo apt-get install python3-libnvinfer (part of JetPack), then the system's python3;
  a virtual environment sees it if it was made with --system-site-packages
  elsewhere with an NVIDIA GPU: pip install tensorrt
  without Python: run the command that 'build_engine.py --dry-run' prints
"""


class BuildError(Exception):
    """The engine cannot be built; holds the exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def tensorrt_module() -> Any:
    """The installed TensorRT, or None."""
    try:
        import tensorrt
    except ImportError:
        return None
    return tensorrt


def major_version(version: str) -> int:
    """Major number of a version such as "10.3.0"."""
    return int(version.split(".")[0])


def compute_capability() -> str:
    """Compute capability of the first GPU, such as "87", or "" when it is not known."""
    for name in ("libcuda.so.1", "libcuda.so"):
        try:
            cuda = ctypes.CDLL(name)
        except OSError:
            continue
        major, minor = ctypes.c_int(), ctypes.c_int()
        if cuda.cuInit(0) or cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, 0):
            return ""
        if cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, 0):
            return ""
        return f"{major.value}{minor.value}"
    return ""


def engine_key(onnx: Path, fp16: bool, version: str = "", sm: str = "") -> str:
    """File name of an engine without suffix: network, precision, TensorRT and GPU generation."""
    parts = [onnx.stem, "fp16" if fp16 else "fp32"]
    parts += ["trt" + version] if version else []
    parts += ["sm" + sm] if sm else []
    return "-".join(parts)


def trtexec_line(
    onnx: str,
    engine: str,
    *,
    major: int,
    fp16: bool = False,
    tf32: bool = True,
    workspace_mib: int = 0,
) -> str:
    """The trtexec command that builds the same engine."""
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
    if fp16:
        words.append("--fp16")
    elif major >= 10:
        words.append("--stronglyTyped")
    if not tf32:
        words.append("--noTF32")
    if workspace_mib:
        words.append(f"--memPoolSize=workspace:{workspace_mib}")
    return " ".join(shlex.quote(word) for word in words)


def check_precision(major: int, fp16: bool) -> None:
    """Raise unless this TensorRT can give the precision."""
    if fp16 and major >= 11:
        raise BuildError(
            f"TensorRT {major} has no FP16 flag: FP16 types must be in the graph, and model.onnx "
            "holds float32. Build without --fp16, or with TensorRT 10.",
            exit_code=7,
        )


def serialized_engine(trt: Any, onnx: Path, *, fp16: bool, tf32: bool, workspace_mib: int) -> bytes:
    """Parse and build; the bytes of the plan.

    Raises:
        BuildError: TensorRT does not take the graph.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, fp16))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise BuildError(f"TensorRT {trt.__version__} cannot parse {onnx.name}: {reasons}")
    config = builder.create_builder_config()
    if workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * MIB)
    if fp16:
        config.set_flag(trt.BuilderFlag.FP16)
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"TensorRT {trt.__version__} built no engine; its messages are above.")
    return bytes(plan)


def _network_flags(trt: Any, fp16: bool) -> int:
    """Bit mask for ``create_network`` in the TensorRT that is installed."""
    flags = trt.NetworkDefinitionCreationFlag
    if major_version(trt.__version__) < 10:
        return 1 << int(flags.EXPLICIT_BATCH)
    return 0 if fp16 else 1 << int(flags.STRONGLY_TYPED)


def typing_in_words(major: int, fp16: bool) -> str:
    """How the precision of the layers was decided, for the sidecar."""
    if fp16:
        return "weak: TensorRT chose FP16 or FP32 for every layer"
    return "strong: the types in the graph" if major >= 10 else "weak: only FP32 was allowed"


def build(trt: Any, onnx: Path, out: Path, *, fp16: bool, tf32: bool, workspace_mib: int) -> Path:
    """Build the engine and its sidecar; the path of the engine.

    Both files are complete when they appear.
    """
    major, sm = major_version(trt.__version__), compute_capability()
    precision = "fp16" if fp16 else "fp32"
    start = time.time()
    plan = serialized_engine(trt, onnx, fp16=fp16, tf32=tf32, workspace_mib=workspace_mib)
    seconds = time.time() - start
    key = engine_key(onnx, fp16, trt.__version__, sm)
    engine = out / (key + ".plan")
    sidecar = {
        "schema": 1,
        "engine": {"file": engine.name, "bytes": len(plan), "sha256": _sha256(plan)},
        "onnx": {"file": onnx.name, "sha256": _sha256(onnx.read_bytes())},
        "tensorrt": trt.__version__,
        "sm": sm or None,
        "precision": {"requested": precision, "typing": typing_in_words(major, fp16)},
        "tf32_allowed": tf32,
        "workspace_mib": workspace_mib or None,
        "built": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "build_s": round(seconds, 2),
        "trtexec": trtexec_line(
            onnx.name, f"{out.name}/{engine.name}",
            major=major, fp16=fp16, tf32=tf32, workspace_mib=workspace_mib,
        ),
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    _write(engine, plan)
    _write(engine.with_suffix(".json"), json.dumps(sidecar, indent=2).encode() + b"\n")
    return engine


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description="Build the TensorRT engine of this artifact.")
    here = Path(__file__).resolve().parent
    parser.add_argument("--onnx", type=Path, default=here / "model.onnx", help="network to build")
    parser.add_argument("--out", type=Path, default=here / "engines", help="folder of the engine")
    parser.add_argument("--fp16", action="store_true", help="let TensorRT 8 or 10 choose FP16")
    parser.add_argument("--no-tf32", dest="tf32", action="store_false", help="no TF32 products")
    parser.add_argument("--workspace-mib", type=int, default=0, help="limit of scratch memory, MiB")
    parser.add_argument("--dry-run", action="store_true", help="print the trtexec command only")
    return parser.parse_args(argv)


def print_trtexec(trt: Any, options: argparse.Namespace) -> None:
    """Write the command to stdout, and what was assumed to stderr."""
    major = ASSUMED_MAJOR if trt is None else major_version(trt.__version__)
    if trt is None:
        sys.stderr.write(f"TensorRT is not installed here; the command is for TensorRT {major}.\n")
    check_precision(major, options.fp16)
    version = "" if trt is None else trt.__version__
    key = engine_key(options.onnx, options.fp16, version)
    line = trtexec_line(
        options.onnx.name, f"{options.out.name}/{key}.plan",
        major=major, fp16=options.fp16, tf32=options.tf32, workspace_mib=options.workspace_mib,
    )  # fmt: skip
    sys.stdout.write(line + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parse_arguments(argv)
    trt = tensorrt_module()
    try:
        if options.dry_run:
            print_trtexec(trt, options)
            return 0
        if trt is None:
            sys.stderr.write(MISSING)
            return 8
        check_precision(major_version(trt.__version__), options.fp16)
        if not options.onnx.is_file():
            raise BuildError(f"There is no network {options.onnx}.", exit_code=9)
        engine = build(
            trt, options.onnx, options.out,
            fp16=options.fp16, tf32=options.tf32, workspace_mib=options.workspace_mib,
        )  # fmt: skip
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sidecar = json.loads(engine.with_suffix(".json").read_text(encoding="utf-8"))
    sys.stdout.write(f"{engine}\nthe same with trtexec: {sidecar['trtexec']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
