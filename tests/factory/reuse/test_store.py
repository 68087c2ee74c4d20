"""Imported networks: kept whole, found by name, refused where what was said does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nnfactory.factory.errors import DataError, SpecError, UnknownNameError, UsageError
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.reuse import store
from nnfactory.factory.reuse.store import (
    donor_folders,
    facts_of,
    import_donor,
    open_donor,
    read_card,
)

SAID: dict[str, Any] = {
    "name": "small", "labels": ("cat", "dog"), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1),
    "colors": "BGR", "license": "MIT",
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(store, "user_donors", lambda: tmp_path / "donors")
    return tmp_path / "donors"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A classifier of two classes with an open batch, as an exporter writes it."""
    rng = np.random.default_rng(0)
    weights = {"k": rng.normal(size=(4, 3, 3, 3)), "m": rng.normal(size=(2, 4)), "b": np.zeros(2)}
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "m", "b"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "file.onnx")
    return tmp_path / "file.onnx"


def test_an_imported_network_is_opened_as_it_was_taken_in(file, home):
    made, folder = import_donor(file, **SAID)
    assert folder == home / "small"
    assert donor_folders() == {"small": folder}
    found = open_donor("small")
    for key in SAID:
        assert getattr(found, key) == getattr(made, key) == SAID[key]
    image = found.tensor(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for name, values in run_network(made.network, {"image": image}).items():
        np.testing.assert_array_equal(run_network(found.network, {"image": image})[name], values)
    assert open_donor(folder).name == "small"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"labels": ("cat",)}, "has 2 outputs and 1 labels"),
        ({"name": "../up"}, "must be of letters"),
        ({"name": ""}, "must be of letters"),
        ({"std": (1.0, 0.0, 1.0)}, r"three in \(0, 1\]"),
        ({"mean": (123.7, 116.3, 103.5)}, r"three numbers in \[0, 1\]"),
        ({"colors": "CMY"}, "RGB"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(file, home, change, error):
    with pytest.raises((DataError, SpecError), match=error):
        import_donor(file, **{**SAID, **change})
    assert not home.exists()


def test_a_name_is_taken_once(file, home):
    import_donor(file, **SAID)
    with pytest.raises(UsageError, match="exists already"):
        import_donor(file, **SAID)
    import_donor(file, **{**SAID, "labels": ("a", "b")}, overwrite=True)
    assert open_donor("small").labels == ("a", "b")
    (home / "other").mkdir()
    with pytest.raises(UsageError, match="is no imported network"):
        import_donor(file, **{**SAID, "name": "other"}, overwrite=True)
    assert [path.name for path in sorted(home.iterdir())] == ["other", "small"]


def test_a_damaged_network_is_not_opened(file, home):
    import_donor(file, **SAID)
    path = home / "small" / "network.onnx"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="damaged"):
        open_donor("small")
    (home / "small" / "donor.toml").write_text("nothing")
    with pytest.raises(DataError, match="no valid imported network"):
        open_donor("small")


def test_the_card_says_what_the_network_is_like(file):
    made, folder = import_donor(file, **SAID)
    card = read_card(folder)
    assert card["facts"] == facts_of(made.network)
    assert card["facts"]["mparams"] == pytest.approx((4 * 27 + 2 * 4 + 2) / 1e6)
    assert card["facts"]["removable"] == 4
    text = (folder / "donor.toml").read_text().replace("facts", "other")
    (folder / "donor.toml").write_text(text)
    with pytest.raises(DataError, match="says nothing of facts"):
        read_card(folder)


def test_an_unknown_name_suggests_a_known_one(file):
    import_donor(file, **SAID)
    with pytest.raises(UnknownNameError, match="Did you mean 'small'"):
        open_donor("smal")
