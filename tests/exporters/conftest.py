"""Toy networks and contents of artifacts, shared by the tests of the exporters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nnfactory.exporters import bundle, contents, metadata
from nnfactory.exporters import onnx as exported
from nnfactory.factory import schema

SIDE = 64
CLASSES = {"det": ("car", 'it\'s a "dog"', "Straße"), "cls": ("a", "b", "c", "d", "e", "f")}


def plan_of(kind: str = "det", seed: int = 0) -> schema.Plan:
    return schema.Plan(
        task=schema.Task(kind=kind, classes=CLASSES[kind]),
        library="toy",
        library_id=f"{seed:016x}",
        active={"stage0.block0": (0, 2), "stage0.block1": ()},
        input_size=SIDE,
        sparsity=0.5,
    )


def toy_network(
    kind: str = "det", *, weight_type: type[np.floating] = np.float32
) -> onnx.ModelProto:
    """Mean color -> linear -> rows of detections, or softmax over the classes."""
    rng = np.random.default_rng(1)
    width = 600 if kind == "det" else len(CLASSES[kind])
    weight: NDArray[np.floating] = rng.normal(0, 0.1 if kind == "det" else 3, (3, width)).astype(
        weight_type
    )
    bias: NDArray[np.floating] = np.zeros((1, width), weight_type)
    if kind == "det":
        rows: NDArray[np.floating] = np.zeros((100, 6), weight_type)
        rows[0], rows[1], rows[2] = (
            (5, 10, 40, 50, 0.9, 1),
            (0, 0, 64, 64, 0.6, 2),
            (9, 9, 20, 30, 0.1, 0),
        )
        bias = rows.reshape(1, 600)
        weight.reshape(3, 100, 6)[:, 3:] = 0
        weight.reshape(3, 100, 6)[:, :, 5] = 0
    end = (
        helper.make_node("Reshape", ["linear", "shape"], ["output0"])
        if kind == "det"
        else helper.make_node("Softmax", ["linear"], ["output0"], axis=-1)
    )
    shape = [1, 100, 6] if kind == "det" else [1, width]
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["linear"]),
            end,
        ],
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(bias, "bias"),
            numpy_helper.from_array(np.array(shape, np.int64), "shape"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def toy_metadata(plan: schema.Plan, side: int = SIDE) -> dict[str, str]:
    imprint = metadata.Imprint(
        plan_id=plan.id, library="toy", version="0.1.0", date="2026-01-02T03:04:05Z", license="MIT"
    )
    return metadata.network_metadata(plan.task, size=(side, side), stride=32, imprint=imprint)


def toy_bytes(plan: schema.Plan) -> bytes:
    network = toy_network(plan.task.kind)
    metadata.apply_metadata_(network, toy_metadata(plan))
    return exported.bytes_from_network(network)


def toy_contents(kind: str = "det", *, seed: int = 0, **changes: object) -> contents.Contents:
    plan = plan_of(kind, seed)
    interval = schema.Interval(low=1.0, value=2.0, high=3.5)
    measured = schema.Measurement(
        device="Host CPU", runtime="onnxruntime 1.31", precision="fp32", threads=1,
        samples_ms=tuple(0.5 + 0.001 * i for i in range(50)), verdict="PASS",
    )  # fmt: skip
    whole = contents.Contents(
        name="toy-artifact",
        network=toy_bytes(plan),
        plan=plan,
        estimate=schema.Estimate(
            latency_ms=interval, accuracy=None, mparams=0.01, mmacs=1.5, memory_mib=0.2,
            file_mib=0.05, runtime="tensorrt", precision="fp16",
        ),
        certificate=schema.Certificate(method="integer program", objective=1.0, bound=1.0, gap=0.0),
        parity=(schema.Parity(a="masked", b="linked", n=4, max_abs=1e-6, tolerance=1e-4),),
        device="jetson-orin-nano",
        budget=schema.Budget(latency_ms=10.0, percentile=90),
        card=contents.LibraryCard(
            name="toy", title="Toy modules", license="MIT",
            data=("drawn shapes",), data_license="CC0",
        ),
        accuracy=(
            contents.Accuracy(
                subject="library", dataset="shapes, test", metric="AP50",
                interval=schema.Interval(low=0.4, value=0.5, high=0.6, level=0.95, n=300),
            ),
        ),
        measurements=(measured,),
        command="nnfactory build --device jetson-orin-nano --task det",
        sources=(
            contents.PartSource(id="toy", version="0", license="MIT", source="drawn", active=2),
        ),
        made="put together from modules of the library 'toy' (Toy modules)",
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """The functions that make toy plans, networks and contents."""
    return SimpleNamespace(
        side=SIDE, classes=CLASSES, plan=plan_of, network=toy_network, metadata=toy_metadata,
        bytes=toy_bytes, contents=toy_contents,
    )  # fmt: skip


@pytest.fixture(scope="session", params=["det", "cls"])
def shared_artifact(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An artifact of each kind; tests must not change it."""
    place = tmp_path_factory.mktemp("artifacts") / request.param
    bundle.write_artifact(place, toy_contents(request.param))
    return place
