"""Every network that is exported opens in every runtime that an app may bring.

The networks are those of the toy libraries and of every installed library: full, half and
smallest, for all classes and for a few.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest

from nnfactory.devices.runners.onnxruntime import OnnxRuntimeRunner
from nnfactory.exporters.metadata import (
    RESERVED,
    Imprint,
    apply_metadata_,
    network_metadata,
    preprocess_spec,
    read_metadata,
    task_from_metadata,
)
from nnfactory.exporters.onnx import MAX_IR, MAX_OPSET, bytes_from_network, tensors_of
from nnfactory.factory.assembler.assemble import plan_from_counts
from nnfactory.factory.graph.network import model_from_network
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.library.store import library_folders, open_library
from nnfactory.factory.linker import link
from nnfactory.factory.schema import Plan

WIDTHS = ("full", "half", "smallest")
FEW = 3
LIBRARIES = ("toy-cls", "toy-det", *library_folders())
DETECTIONS = 100


@dataclass(frozen=True)
class Exported:
    """A network as it is written into an artifact, and what it was made from."""

    library: ModuleLibrary
    plan: Plan
    content: bytes


def exported(library: ModuleLibrary, width: str, classes: int) -> Exported:
    """Link and export a plan of the library; the smallest one at the smallest input size."""
    sizes = library.input_sizes
    library = library.at(
        {"full": sizes[0], "half": sizes[len(sizes) // 2], "smallest": sizes[-1]}[width]
    )
    counts = {
        "full": {slot.name: slot.groups for slot in library.blocks},
        "half": {slot.name: max(slot.min_groups, slot.groups // 2) for slot in library.blocks},
        "smallest": {slot.name: slot.min_groups for slot in library.blocks},
    }[width]
    plan = plan_from_counts(library, library.task(library.classes[:classes]), counts)
    rng = np.random.default_rng(0)
    images = rng.random((4, 3, library.input_size, library.input_size), dtype=np.float32)
    network = link(library, plan, images=images).network
    imprint = Imprint(
        plan_id=plan.id, library=library.name, version="0.1.0", date="2026-01-02T03:04:05Z",
        license=library.card["weights"]["license"],
    )  # fmt: skip
    size = (library.input_size, library.input_size)
    stride = max(library.head_strides, default=library.input_size)
    model = model_from_network(network)
    apply_metadata_(model, network_metadata(plan.task, size=size, stride=stride, imprint=imprint))
    return Exported(library, plan, bytes_from_network(model))


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> ModuleLibrary:
    name = request.param
    if name.startswith("toy-"):
        return request.getfixturevalue(name.replace("-", "_"))
    return open_library(name)


@pytest.fixture(scope="module", params=["all", "few"])
def classes(request: pytest.FixtureRequest, library: ModuleLibrary) -> int:
    return len(library.classes) if request.param == "all" else FEW


@pytest.fixture(scope="module", params=WIDTHS)
def network(request: pytest.FixtureRequest, library: ModuleLibrary, classes: int) -> Exported:
    return exported(library, request.param, classes)


def test_onnx_checker_accepts_it_with_standard_operators_alone(network: Exported):
    model = onnx.load_model_from_string(network.content)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} == {""}
    assert model.opset_import[0].version <= MAX_OPSET
    assert model.ir_version <= MAX_IR
    assert all(node.domain == "" for node in model.graph.node)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert "NonMaxSuppression" not in {node.op_type for node in model.graph.node}


def test_inputs_and_outputs_are_those_of_the_contract(network: Exported):
    side, names = network.library.input_size, network.plan.task.classes
    (image,), (output,) = tensors_of(onnx.load_model_from_string(network.content))
    assert (image.name, image.dtype, image.shape) == ("images", "float32", (1, 3, side, side))
    wanted = (1, len(names)) if network.library.kind == "cls" else (1, DETECTIONS, 6)
    assert (output.name, output.dtype, output.shape) == ("output0", "float32", wanted)


def test_metadata_parse_as_existing_loaders_parse_them(network: Exported):
    model = onnx.load_model_from_string(network.content)
    metadata = read_metadata(model)
    kind, side = network.library.kind, network.library.input_size
    for key in ("stride", "batch", "channels"):
        assert int(metadata[key]) > 0
    assert ast.literal_eval(metadata["imgsz"]) == [side, side]
    assert ast.literal_eval(metadata["names"]) == dict(enumerate(network.plan.task.classes))
    assert isinstance(ast.literal_eval(metadata["args"]), dict)
    assert metadata["task"] == {"cls": "classify", "det": "detect"}[kind]
    if kind == "det":
        assert ast.literal_eval(metadata["end2end"]) is True
    else:
        assert "end2end" not in metadata
    for key in ("description", "author", "date", "version", "license", "docs"):
        assert key in metadata
    assert not RESERVED & set(metadata)
    spec = json.loads(metadata["nnfactory.preprocess"])
    assert spec == preprocess_spec(kind, (side, side))
    assert metadata["nnfactory.plan"] == network.plan.id
    assert task_from_metadata(metadata) == network.plan.task
    assert model.producer_name == "nnfactory"


def test_onnxruntime_opens_and_runs_it(network: Exported):
    with OnnxRuntimeRunner(network.content) as runner:
        runner.run()


def test_answers_are_what_the_contract_says(network: Exported):
    side, names = network.library.input_size, network.plan.task.classes
    session = onnxruntime.InferenceSession(network.content, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for image in (rng.random((1, 3, side, side), dtype=np.float32), np.zeros((1, 3, side, side))):
        (answer,) = session.run(["output0"], {"images": image.astype(np.float32)})
        assert np.isfinite(answer).all()
        if network.library.kind == "cls":
            assert answer.sum() == pytest.approx(1.0, abs=1e-4)
            assert (answer >= 0).all()
        else:
            _check_detections(answer[0], side, len(names))


def _check_detections(rows: np.ndarray, side: int, classes: int) -> None:
    boxes, scores, labels = rows[:, :4], rows[:, 4], rows[:, 5]
    assert ((boxes >= 0) & (boxes <= side)).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores) <= 1e-6).all()  # best first
    assert (labels == labels.astype(int)).all()
    assert ((labels >= 0) & (labels < classes)).all()
    assert (rows[scores == 0] == 0).all()  # unused rows have class 0, never -1


def test_fewer_modules_and_classes_never_give_a_larger_file(library: ModuleLibrary):
    full, half, smallest = (len(exported(library, w, len(library.classes)).content) for w in WIDTHS)
    assert full > half > smallest
    assert len(exported(library, "full", FEW).content) < full


# TensorRT: the parser and the builder need no GPU; nothing is deserialized here. This is
# TensorRT for RTX, whose parser is that of the boards' TensorRT; the engine is not a board's.


def test_tensorrt_parses_and_builds_it(network: Exported):
    trt = pytest.importorskip("tensorrt_rtx")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    definition = builder.create_network(flag)
    parser = trt.OnnxParser(definition, logger)
    parsed = parser.parse(network.content)
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    assert (definition.num_inputs, definition.num_outputs) == (1, 1)
    assert (definition.get_input(0).name, definition.get_output(0).name) == ("images", "output0")
    (_,), (output,) = tensors_of(onnx.load_model_from_string(network.content))
    assert tuple(definition.get_output(0).shape) == output.shape
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(definition, config)
    assert engine is not None
    assert engine.nbytes > 1000
