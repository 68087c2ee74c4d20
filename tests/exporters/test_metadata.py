"""The metadata, read exactly as existing loaders read it."""

import ast
import json

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfactory.exporters import metadata
from nnfactory.exporters import onnx as exported
from nnfactory.factory.errors import DataError, ShapeError, SpecError
from nnfactory.factory.schema import Task

IMPRINT = metadata.Imprint(
    plan_id="ab", library="toy", version="0.1.0", date="2026-01-02", license="MIT"
)
LINES = st.text(min_size=1, max_size=12).filter(lambda text: text.splitlines() == [text])


def read_as_a_loader_does(found: dict[str, str]) -> dict[str, object]:
    """The documented parsing: int for three keys, literals for six, text for the rest."""
    numbers, literals = {"stride", "batch", "channels"}, {"imgsz", "names", "args", "end2end"}
    parsed: dict[str, object] = {}
    for key, value in found.items():
        parse = int if key in numbers else ast.literal_eval if key in literals else str
        parsed[key] = parse(value)
    return parsed


@pytest.mark.parametrize(("kind", "task"), [("det", "detect"), ("cls", "classify")])
def test_loader_reads_every_key_with_the_right_type(toy, kind, task):
    found = read_as_a_loader_does(toy.metadata(toy.plan(kind)))
    assert (found["task"], found["stride"], found["batch"], found["channels"]) == (task, 32, 1, 3)
    assert found["imgsz"] == [64, 64]
    assert found["names"] == dict(enumerate(toy.classes[kind]))
    assert isinstance(found["args"], dict)
    assert found.get("end2end") is (True if kind == "det" else None)
    assert not metadata.RESERVED & set(found)


@settings(max_examples=40, deadline=None)
@given(st.lists(LINES, min_size=2, max_size=5, unique=True))
def test_any_class_names_survive(classes):
    task = Task(kind="cls", classes=tuple(classes))
    found = metadata.network_metadata(task, size=(32, 32), stride=8, imprint=IMPRINT)
    assert ast.literal_eval(found["names"]) == dict(enumerate(classes))
    assert metadata.task_from_metadata(found) == task


@pytest.mark.parametrize("name", ["two\nlines", "ends\n", "a\u2028b"])
def test_class_name_of_several_lines_is_refused(name):
    task = Task(kind="det", classes=(name,))
    with pytest.raises(SpecError, match="one line"):
        metadata.network_metadata(task, size=(32, 32), stride=8, imprint=IMPRINT)


def test_metadata_survives_the_file_and_replaces_what_was_there(toy):
    plan = toy.plan()
    network = toy.network()
    network.metadata_props.add(key="device", value="elsewhere")
    metadata.apply_metadata_(network, toy.metadata(plan))
    read = onnx.load_model_from_string(exported.bytes_from_network(network))
    assert metadata.read_metadata(read) == toy.metadata(plan)
    assert (read.producer_name, read.producer_version) == ("nnfactory", "0.1.0")
    assert read.graph.input[0].doc_string
    assert read.graph.output[0].doc_string


def test_preprocess_is_one_json_table(toy):
    spec = json.loads(toy.metadata(toy.plan())["nnfactory.preprocess"])
    assert (spec["resize"], spec["pad_value"], spec["size"]) == ("letterbox", 114, [64, 64])


def test_foreign_network_has_no_metadata(toy):
    with pytest.raises(DataError, match="no metadata"):
        metadata.read_metadata(toy.network())


@pytest.mark.parametrize(("field", "value"), [("ir_version", 11), ("opset", 19)])
def test_network_for_newer_runtimes_is_refused(toy, field, value):
    network = toy.network()
    if field == "opset":
        network.opset_import[0].version = value
    else:
        network.ir_version = value
    with pytest.raises(DataError, match="at most"):
        exported.bytes_from_network(network)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (2, 3, 8, 8), (1, 3, 0, 8)])
def test_network_with_another_input_is_refused(toy, shape):
    network = toy.network()
    for dimension, side in zip(
        network.graph.input[0].type.tensor_type.shape.dim, shape, strict=True
    ):
        dimension.dim_value = side
    with pytest.raises(ShapeError, match="images"):
        exported.bytes_from_network(network)
