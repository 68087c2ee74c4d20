"""What is done with an artifact: measure, verify, inspect, open, run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..factory.errors import DataError, DeviceError
from ..factory.schema import Measurement, Plan, Task

if TYPE_CHECKING:
    from ..exporters.runtime.nnf_runtime import Results, Runtime
    from ..factory.graph.network import Array, Network
    from ..factory.library.library import ModuleLibrary


def bench(
    path: Path, *, device: str = "host", threads: int = 1, seconds: float = 3.0
) -> Measurement:
    """Measure an artifact or an ONNX file.

    Args:
        path: Artifact folder or ONNX file.
        device: Only "host" is at hand.
        threads: Threads that compute one operator.
        seconds: Time spent on timed runs.

    Raises:
        DataError: There is no such network.
        DeviceError: The device is another machine.
    """
    from ..devices.measure import measure_host
    from ..devices.profile import load_profile

    profile = load_profile(device)
    model = _model_file(path)
    if profile.name != "host":
        folder = path.resolve()
        if profile.runtime == "onnxruntime-cpu":
            steps = [
                f"copy it to the board: scp -r {folder} BOARD:",
                f"measure there, with nnfactory installed: nnfactory bench {folder.name}",
            ]
        elif folder.is_file():
            steps = [f"on the board: trtexec --onnx={folder.name} --fp16 (TensorRT 10)"]
        else:
            steps = [
                f"copy the artifact to the board: scp -r {folder} BOARD:",
                f"build the engine there: cd {folder.name} && python3 build_engine.py --fp16",
                "its last lines name the trtexec command that measures the engine",
            ]
        raise DeviceError(
            f"'{profile.name}' is not at hand: this machine cannot measure for it.", hints=steps
        )
    return measure_host(model.read_bytes(), device=profile.name, threads=threads, seconds=seconds)


def _model_file(path: Path) -> Path:
    """The ONNX file of an artifact, or the file itself.

    Raises:
        DataError: There is neither.
    """
    from ..exporters.bundle import read_manifest
    from ..factory.graph.network import load_model

    if path.is_dir():
        read_manifest(path)
        path = path / "model.onnx"
    load_model(path)
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that ``verify`` looked at; ``passed`` is None where nothing could be compared."""

    name: str
    passed: bool | None
    text: str


def verify(path: Path) -> list[Check]:
    """Check an artifact: hashes, the network, its golden vectors, and its module library.

    Raises:
        DataError: The folder is no artifact.
        VerificationError: A file is missing or was changed.
    """
    from ..exporters.bundle import check_artifact
    from ..exporters.runtime.nnf_runtime import selftest
    from ..factory.graph.network import load_model

    manifest = check_artifact(path)
    checks = [Check(name="files", passed=True, text=f"{len(manifest['files'])} hashes match")]
    load_model(path / "model.onnx")
    checks.append(Check(name="network", passed=True, text="the ONNX checker accepts it"))
    answers = [Check(name=n, passed=p, text=t) for n, p, t in selftest(str(path))]
    checks += [check for check in answers if check.name != "files"]
    checks.append(_check_library(path, manifest))
    return checks


def _check_library(path: Path, manifest: dict[str, Any]) -> Check:
    """Link the recorded plan again and compare the weights."""
    import numpy as np

    from ..factory.errors import NNFactoryError
    from ..factory.graph.network import load_network
    from ..factory.library.store import open_library
    from ..factory.linker import TOLERANCE

    try:
        source = open_library(manifest["plan"]["library"])
    except NNFactoryError:
        return Check(name="library", passed=None, text="not installed here; not compared")
    if source.id != manifest["plan"]["library_id"]:
        return Check(name="library", passed=None, text="another version is installed; not compared")
    task = Task(
        kind=source.kind, classes=tuple(manifest["classes"]),
        examples=manifest["plan"].get("examples") or "",
    )  # fmt: skip
    plan = Plan(
        task=task,
        library=source.name,
        library_id=source.id,
        active={name: tuple(groups) for name, groups in manifest["plan"]["slots"].items()},
        input_size=manifest["plan"]["input_size"],
        normalization=manifest["plan"]["normalization"],
        is_modulated=manifest["plan"]["is_modulated"],
        statistics_of=manifest["plan"].get("statistics_of") or "",
    )
    if plan.normalization == "reestimated":
        text = "normalization was re-estimated on images that are not in it; not compared"
        return Check(name="library", passed=None, text=text)
    if plan.is_modulated and task.examples:
        text = "modulated for classes that only the examples know; not compared"
        return Check(name="library", passed=None, text=text)
    linked, fitted = _linked_again(source, plan)
    kept = load_network(path / "model.onnx").weights
    if plan.id != manifest["plan"]["id"] or linked.keys() != kept.keys():
        return Check(name="library", passed=False, text="the library links another network")
    gap = max(
        float(np.abs(linked[name] - kept[name]).max(initial=0)) for name in kept.keys() - fitted
    )
    text = f"linked again, the largest weight differs by {gap:.1e}"
    if task.examples:
        text += "; the layer of the classes, fitted to examples, is not compared"
    return Check(name="library", passed=gap <= TOLERANCE, text=text)


def _linked_again(source: ModuleLibrary, plan: Plan) -> tuple[dict[str, Array], set[str]]:
    """The weights that the library gives a plan, and the names of those that examples replaced."""
    from ..factory.features import class_layer
    from ..factory.linker import link

    if not plan.task.examples:
        return link(source, plan).network.weights, set()
    stand_in = Task(kind=source.kind, classes=source.classes[: len(plan.task.classes)])
    linked = link(source, replace(plan, task=stand_in))
    return linked.network.weights, set(class_layer(linked.folded).input[1:])


def inspect(path: Path, *, input_size: int | None = None) -> dict[str, Any]:
    """Inputs, outputs, operators, size, structure and metadata of an ONNX file or an artifact.

    A network of someone else is read with static shapes and in our opset: see
    :func:`load_foreign`.

    Args:
        path: An ONNX file, or an artifact.
        input_size: Height and width of the input, where a file leaves them open.

    Raises:
        DataError: The file or folder is neither.
    """
    from collections import Counter

    from ..exporters.bundle import read_manifest
    from ..factory.graph.costs import op_costs, parameter_count
    from ..factory.graph.foreign import load_foreign
    from ..factory.graph.memory import peak_bytes
    from ..factory.graph.network import load_model, network_from_model, tensor_shapes

    manifest = read_manifest(path) if path.is_dir() else None
    file = _model_file(path)
    model = load_model(file)
    is_ours = model.producer_name == "nnfactory"
    network = network_from_model(model) if is_ours else load_foreign(file, size=input_size)
    shapes = tensor_shapes(network)
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "opset": max(entry.version for entry in model.opset_import),
        "ir_version": model.ir_version,
        "inputs": {name: list(shape) for name, shape in network.inputs.items()},
        "outputs": {name: list(shape) for name, shape in network.outputs.items()},
        "parameters": parameter_count(network),
        "macs": sum(row.macs for row in op_costs(network, shapes)),
        "peak_memory_bytes": peak_bytes(network, shapes),
        "operators": dict(Counter(node.op_type for node in network.nodes).most_common()),
        **_structure(network),
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
        "manifest": manifest,
    }


def _structure(network: Network) -> dict[str, Any]:
    """What could be cut out of a network, and where it could be taken apart."""
    from ..factory.graph.coupling import coupling
    from ..factory.graph.cut_points import cut_points

    found = coupling(network)
    points = cut_points(network) if len(network.inputs) == 1 else []
    return {
        "channel_groups": {
            "removable": len(found.removable()),
            "families": len(found.families()),
            "not_understood": dict(found.not_understood),
        },
        "cut_points": [
            {"tensor": point.tensor, "shape": list(point.shape), "depth": round(point.depth, 4)}
            for point in points
        ],
    }


def load(path: str | Path, **options: Any) -> Runtime:
    """Open an artifact with the runtime that is copied into it.

    Args:
        path: Artifact folder or ONNX file.
        options: Passed to the runtime, such as ``threads``.

    Raises:
        DataError: There is no such network.
    """
    from ..exporters.runtime.nnf_runtime import Runtime

    _model_file(Path(path))
    try:
        return Runtime(str(path), **options)
    except ValueError as error:
        raise DataError(str(error)) from error


def run(path: Path, image: Path, *, confidence: float | None = None) -> Results:
    """Answer of an artifact for one image file.

    Raises:
        DataError: There is no such network, or the image cannot be read.
    """
    from PIL import Image

    from ..exporters.runtime.nnf_runtime import read_image

    runtime = load(path)
    try:
        pixels = read_image(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{image} cannot be read as an image: {error}.") from error
    results = runtime(pixels) if confidence is None else runtime(pixels, conf=confidence)
    results.path = str(image)
    return results
