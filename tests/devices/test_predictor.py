"""Laws of the latency estimate, what is fused, and the shipped coefficients."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.devices.kernels import fuse_kernels
from nnfactory.devices.predictor import (
    list_predictors,
    load_predictor,
    read_predictor,
    write_predictor,
)
from nnfactory.factory.errors import DataError, SpecError, UnknownNameError
from nnfactory.factory.graph.costs import OpCost

PREDICTOR = load_predictor("jetson-orin-nano")
ELEMS = 1000


def op(kind: str, name: str, *inputs: int, **changes: int) -> OpCost:
    """An operator on maps of ``ELEMS`` elements."""
    sizes = {"macs": 10**6 if kind == "conv" else 0, "in_elems": ELEMS * max(1, len(inputs))}
    sizes |= {"out_elems": ELEMS, "weight_elems": 500 if kind == "conv" else 0}
    return OpCost(op=kind, name=name, inputs=inputs, **{**sizes, **changes})


def names(ops: list[OpCost]) -> list[tuple[str, ...]]:
    return [kernel.ops for kernel in fuse_kernels(ops)]


def test_batch_norm_and_activation_join_the_convolution():
    kernels = fuse_kernels([op("conv", "c", -1), op("batch_norm", "b", 0), op("relu", "r", 1)])
    assert [(k.kind, k.name, k.ops) for k in kernels] == [("conv", "c", ("c", "b", "r"))]
    assert (kernels[0].in_elems, kernels[0].out_elems) == (ELEMS, ELEMS)


def test_output_read_twice_is_not_fused():
    ops = [op("conv", "c", -1), op("relu", "r", 0), op("max_pool", "p", 0), op("add", "a", 1, 2)]
    assert names(ops) == [("c",), ("r", "a"), ("p",)]


def test_residual_addition_joins_the_later_branch_and_reads_the_other():
    ops = [op("conv", "c1", -1), op("conv", "c2", -1), op("add", "a", 0, 1), op("relu", "r", 2)]
    kernels = fuse_kernels(ops)
    assert [k.ops for k in kernels] == [("c1",), ("c2", "a", "r")]
    assert kernels[1].in_elems == 2 * ELEMS


def test_addition_to_the_stream_joins_the_branch_that_only_it_reads():
    ops = [
        op("conv", "stem", -1), op("conv", "c1", 0), op("conv", "c2", 1), op("add", "a", 0, 2),
        op("conv", "next", 3),
    ]  # fmt: skip
    assert names(ops) == [("stem",), ("c1",), ("c2", "a"), ("next",)]


def test_addition_of_the_network_input_reads_it():
    kernels = fuse_kernels([op("conv", "c", -1), op("add", "a", 0, -1)])
    assert [k.in_elems for k in kernels] == [2 * ELEMS]


def test_silu_as_onnx_writes_it_is_one_activation():
    ops = [op("conv", "c", -1), op("sigmoid", "s", 0), op("mul", "m", 0, 1)]
    kernels = fuse_kernels(ops)
    assert [k.ops for k in kernels] == [("c", "s", "m")]
    assert kernels[0].in_elems == ELEMS


def test_squeeze_excitation_product_is_a_kernel_of_its_own():
    ops = [
        op("conv", "c", -1), op("global_avg_pool", "p", 0, out_elems=10),
        op("conv", "e", 1, in_elems=10, out_elems=10), op("sigmoid", "s", 2, out_elems=10),
        op("mul", "m", 3, 0),
    ]  # fmt: skip
    assert names(ops) == [("c",), ("p",), ("e", "s"), ("m",)]


def test_reshapes_are_free():
    ops = [op("conv", "c", -1), op("reshape", "v", 0), op("relu", "r", 1), op("flatten", "f", 2)]
    assert names(ops) == [("c", "v", "r", "f")]


def test_activation_of_a_pool_is_not_fused():
    assert names([op("max_pool", "p", -1), op("relu", "r", 0)]) == [("p",), ("r",)]


@pytest.mark.parametrize(
    ("groups", "c_in", "kind"), [(1, 8, "conv"), (8, 8, "depthwise"), (2, 8, "grouped")]
)
def test_kind_follows_the_groups(groups: int, c_in: int, kind: str):
    assert fuse_kernels([op("conv", "c", -1, groups=groups, c_in=c_in)])[0].kind == kind


KINDS = ["conv", "relu", "add", "mul", "sigmoid", "max_pool", "reshape", "concat", "batch_norm"]


@st.composite
def networks(draw: st.DrawFn) -> list[OpCost]:
    """Random directed acyclic graphs of one to twelve operators."""
    ops = []
    for position in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(KINDS))
        count = 2 if kind in ("add", "mul", "concat") else 1
        inputs = [draw(st.integers(-1, position - 1)) for _ in range(count)]
        groups = draw(st.sampled_from([1, 8])) if kind == "conv" else 1
        changes = {"macs": draw(st.integers(0, 10**9))} if kind == "conv" else {}
        ops.append(op(kind, f"n{position}", *inputs, groups=groups, c_in=8, **changes))
    return ops


@given(networks(), st.data())
def test_more_macs_are_never_faster(ops: list[OpCost], data: st.DataObject):
    place = data.draw(st.integers(0, len(ops) - 1))
    more = list(ops)
    more[place] = dataclasses.replace(ops[place], macs=ops[place].macs + 10**8)
    assert PREDICTOR.predict_ms(more).value >= PREDICTOR.predict_ms(ops).value


@given(networks(), st.data())
def test_adding_an_operator_is_never_faster(ops: list[OpCost], data: st.DataObject):
    sources = [data.draw(st.integers(-1, len(ops) - 1)) for _ in range(2)]
    kind = data.draw(st.sampled_from(["conv", "relu", "add", "reshape", "max_pool"]))
    more = [*ops, op(kind, "extra", *sources[: 2 if kind == "add" else 1])]
    slower, base = PREDICTOR.predict_ms(more).value, PREDICTOR.predict_ms(ops).value
    assert slower >= base - 1e-12


@given(networks())
def test_every_operator_is_in_at_most_one_kernel_and_macs_are_kept(ops: list[OpCost]):
    kernels = fuse_kernels(ops)
    fused = [name for kernel in kernels for name in kernel.ops]
    assert len(fused) == len(set(fused))
    assert {o.name for o in ops if o.op != "reshape"} <= set(fused)
    assert sum(kernel.macs for kernel in kernels) == sum(o.macs for o in ops)


@given(networks())
def test_interval_is_ordered_and_sums_the_kernels(ops: list[OpCost]):
    interval = PREDICTOR.predict_ms(ops)
    per_kernel = PREDICTOR.predict_kernels(fuse_kernels(ops))
    assert 0 < interval.low <= interval.value <= interval.high
    assert interval.value == pytest.approx(per_kernel.sum() + PREDICTOR.call_ms)
    assert np.all(per_kernel >= PREDICTOR.kernel_ms)


def test_kernel_takes_the_longer_of_arithmetic_and_memory():
    predictor = dataclasses.replace(
        PREDICTOR, dense_gmacs=1000.0, bandwidth_gbs=10.0, kernel_ms=0.01, bytes_per_elem=2
    )
    kernels = fuse_kernels([op("conv", "c", -1, macs=10**9), op("conv", "d", -1, macs=0)])
    expected_ms = [1.0 + 0.01, 2500 * 2 / 10e9 * 1e3 + 0.01]  # 1 GMAC at 1000 GMAC/s; 5 kB
    assert predictor.predict_kernels(kernels) == pytest.approx(expected_ms)


def test_interval_widens_below_the_shortest_measured_latency():
    shortest = PREDICTOR.shortest_ms
    low, high = PREDICTOR.errors_at(shortest * 10)
    assert (low, high) == PREDICTOR.errors_at(shortest)
    narrower = PREDICTOR.errors_at(shortest / 4)
    assert narrower == pytest.approx((low / PREDICTOR.widening**2, high * PREDICTOR.widening**2))
    with pytest.raises(SpecError):
        PREDICTOR.errors_at(0.0)


def test_faster_board_is_faster_by_its_speed():
    ops = [op("conv", "c", -1), op("conv", "d", 0)]
    board = "Jetson Orin Nano Super"
    faster = PREDICTOR.on_board(board)
    ratio = PREDICTOR.predict_ms(ops).value / faster.predict_ms(ops).value
    assert ratio == pytest.approx(PREDICTOR.speeds[board])
    assert faster.speeds[board] == pytest.approx(1.0)
    with pytest.raises(UnknownNameError):
        PREDICTOR.on_board("Jetson Orin Nano Superb")


@pytest.mark.parametrize("device", list_predictors())
def test_shipped_predictor_states_domain_sources_and_interval(device: str):
    predictor = load_predictor(device)
    assert predictor.device == device
    assert predictor.domain
    assert all("github.com" in source for source in predictor.sources)
    assert predictor.n_families <= predictor.n
    assert predictor.error_low < 1 < predictor.error_high


def test_file_round_trip_is_the_identity(tmp_path: Path):
    path = tmp_path / "predictor.json"
    write_predictor(PREDICTOR, path)
    assert read_predictor(path) == PREDICTOR


@pytest.mark.parametrize("change", ["no JSON", "missing", "unknown", "range", "type", "infinite"])
def test_malformed_file_raises_data_error_that_names_it(tmp_path: Path, change: str):
    path = tmp_path / "broken.json"
    write_predictor(PREDICTOR, path)
    table = json.loads(path.read_text(encoding="utf-8"))
    if change == "missing":
        del table["kernel_ms"]
    table |= {
        "unknown": {"gpu": 1}, "range": {"dense_gmacs": -1.0}, "type": {"call_ms": "fast"},
        "infinite": {"bandwidth_gbs": float("inf")},
    }.get(change, {})  # fmt: skip
    path.write_text("{" if change == "no JSON" else json.dumps(table), encoding="utf-8")
    with pytest.raises(DataError, match="broken.json"):
        read_predictor(path)


def test_unknown_device_raises_unknown_name_error():
    with pytest.raises(UnknownNameError):
        load_predictor("jetson-orin-nanoo")


def test_benchmark_reproduces_the_shipped_coefficients():
    source = Path(__file__).parents[2] / "benchmarks" / "jetson_predictor.py"
    spec = importlib.util.spec_from_file_location("jetson_predictor", source)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # dataclasses look their module up
    spec.loader.exec_module(benchmark)
    folder = Path(os.environ.get("NNFACTORY_DATA") or benchmark.default_data())
    if not (folder / "latency_layers" / "layers_jetson.npz").is_file():
        pytest.skip("the published measurements are absent; name their folder in NNFACTORY_DATA")
    predictor, held_out = benchmark.build_predictor(folder)
    for name in (*benchmark.COEFFICIENTS, "error_low", "error_high", "widening"):
        assert getattr(predictor, name) == pytest.approx(getattr(PREDICTOR, name), rel=0.02), name
    assert len(held_out) == PREDICTOR.n
    assert benchmark.errors(held_out) < 0.2
