"""What a network says about itself, in the words that existing loaders read.

Ultralytics parses ``stride``, ``batch`` and ``channels`` with ``int`` and ``imgsz``, ``names``,
``args`` and ``end2end`` with ``ast.literal_eval``; then every key becomes an attribute of its
loader, so some names must never be used. Our own keys hold a dot and cannot collide.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from ..factory.errors import DataError, SpecError
from ..factory.schema import Task

SCHEMA = "1"
PRODUCER = "nnfactory"
RESERVED = frozenset(
    "model device fp16 nhwc dynamic base_model metadata session forward load_model".split()
)
_TASKS = {"cls": "classify", "det": "detect"}
_KINDS = {task: kind for kind, task in _TASKS.items()}
_DIVISOR = 255
_PAD_VALUE = 114  # the grey of the YOLO family


@dataclass(frozen=True, slots=True, kw_only=True)
class Imprint:
    """Where a network comes from, as its metadata says it.

    Attributes:
        plan_id: The plan that it was linked from.
        library: Name of the module library.
        version: Version of nnfactory.
        date: ISO 8601 time.
        license: License of the weights.
        author: Who made the network.
        docs: Where more is written.
    """

    plan_id: str
    library: str
    version: str
    date: str
    license: str
    author: str = "nnfactory"
    docs: str = ""


def preprocess_spec(kind: str, size: Sequence[int]) -> dict[str, object]:
    """How an image becomes the input tensor; every runtime reads this and nothing else.

    Args:
        kind: "cls" or "det".
        size: Height and width of the network's input, in pixels.
    """
    spec: dict[str, object] = {
        "version": 1,
        "color": "RGB",
        "layout": "NCHW",
        "dtype": "float32",
        "size": [int(side) for side in size],
        "divisor": _DIVISOR,
        "interpolation": "bilinear",
        "pixel_centers": "half",
        "rounding": "whole levels after resizing",
    }
    if kind == "det":
        return spec | {
            "resize": "letterbox",
            "antialias": False,
            "pad_value": _PAD_VALUE,
            "pad_rounding": "round(d - 0.1) before, round(d + 0.1) after",
        }
    return spec | {"resize": "center-crop", "antialias": True}


def network_metadata(
    task: Task, *, size: Sequence[int], stride: int, imprint: Imprint
) -> dict[str, str]:
    """Metadata of a network, every value as text.

    Args:
        task: What the network does; its classes in the order of the outputs.
        size: Height and width of the input, in pixels.
        stride: Input pixels per pixel of the coarsest feature map.
        imprint: Where the network comes from.

    Raises:
        SpecError: A class name does not fit on one line.
    """
    broken = [name for name in task.classes if name.splitlines() != [name]]
    if broken:
        raise SpecError(f"A class name must be one line of text, got {broken[0]!r}.")
    sides = [int(side) for side in size]
    metadata: dict[str, object] = {
        "description": f"{_TASKS[task.kind]} network, plan {imprint.plan_id} "
        f"of module library '{imprint.library}'",
        "author": imprint.author,
        "date": imprint.date,
        "version": imprint.version,
        "license": imprint.license,
        "docs": imprint.docs,
        "stride": int(stride),
        "task": _TASKS[task.kind],
        "batch": 1,
        "imgsz": sides,
        "names": dict(enumerate(task.classes)),
        "args": {"batch": 1, "half": False, "int8": False, "dynamic": False, "nms": False},
        "channels": 3,
        "model_author": imprint.author,
        "model_license": imprint.license,
        "Image.BitmapPixelFormat": "Rgb8",
        "Image.ColorSpaceGamma": "SRGB",
        "Image.NominalPixelRange": "Normalized_0_1",
        "nnfactory.schema": SCHEMA,
        "nnfactory.manifest": "manifest.json",
        "nnfactory.plan": imprint.plan_id,
        "nnfactory.library": imprint.library,
        "nnfactory.preprocess": json.dumps(preprocess_spec(task.kind, sides)),
    }
    if task.kind == "det":
        metadata["end2end"] = True  # rows are finished boxes: no suppression after the network
    assert not RESERVED & set(metadata)
    return {key: str(value) for key, value in metadata.items()}


def apply_metadata_(network: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Make ``metadata`` the network's only metadata; sets producer and documentation too."""
    del network.metadata_props[:]
    onnx.helper.set_model_props(network, dict(metadata))
    network.producer_name = PRODUCER
    network.producer_version = metadata["version"]
    network.doc_string = metadata["description"]
    network.graph.doc_string = metadata["description"]
    is_detector = metadata["task"] == "detect"
    for value in network.graph.input:
        value.doc_string = "RGB image (1, 3, H, W) in [0, 1]; see metadata 'nnfactory.preprocess'."
    for value in network.graph.output:
        value.doc_string = (
            "Rows x1, y1, x2, y2 in input pixels, score, class; unused rows have score 0."
            if is_detector
            else "Class probabilities (1, N)."
        )


def read_metadata(network: onnx.ModelProto) -> dict[str, str]:
    """Metadata of a network.

    Raises:
        DataError: It was not written by :func:`apply_metadata_`.
    """
    metadata = {entry.key: entry.value for entry in network.metadata_props}
    if metadata.get("nnfactory.schema") != SCHEMA or metadata.get("task") not in _KINDS:
        raise DataError("The network has no metadata of nnfactory.")
    return metadata


def task_from_metadata(metadata: Mapping[str, str]) -> Task:
    """The task of a network from its metadata."""
    names = ast.literal_eval(metadata["names"])
    return Task(kind=_KINDS[metadata["task"]], classes=tuple(names[i] for i in sorted(names)))
