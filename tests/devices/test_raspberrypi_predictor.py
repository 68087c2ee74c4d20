"""The coefficients of the Raspberry Pi 5 follow from published measurements."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from nnfactory.devices.predictor import EnergyRates, load_predictor
from nnfactory.factory.errors import SpecError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    """The script that fits them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("raspberrypi_predictor")


def test_a_cell_has_the_multiply_adds_that_its_search_space_publishes(benchmark):
    edges = ["nor_conv_3x3"] * 3 + ["skip_connect", "nor_conv_3x3", "nor_conv_1x1"]
    ops = benchmark.cell_network(edges, (3, 32, 32))
    macs = sum(op.macs for op in ops if op.op == "conv")
    assert macs / 1e6 == pytest.approx(153.27, abs=0.01)


def test_a_cell_that_answers_nothing_is_no_network(benchmark):
    assert benchmark.cell_network(["none"] * 6, (3, 32, 32)) is None
    through = ["none", "none", "none", "skip_connect", "none", "none"]
    ops = benchmark.cell_network(through, (3, 32, 32))
    assert sum(op.op == "conv" for op in ops) == 1 + 2 * 3  # the stem and two reductions


def test_the_script_reproduces_the_shipped_coefficients(benchmark, data_dir: Path):
    sets = benchmark.read_measured(data_dir)
    predictor, ratios = benchmark.build_predictor(sets)
    shipped = load_predictor("raspberrypi5")
    for name in ("dense_gmacs", "bandwidth_gbs", "call_ms", "error_low", "error_high"):
        assert getattr(predictor, name) == pytest.approx(getattr(shipped, name), rel=0.02), name
    assert predictor.energy is not None
    assert shipped.energy is not None
    for name in ("nj_per_mac", "nj_per_elem", "call_mj", "error_low", "error_high"):
        mine, kept = getattr(predictor.energy, name), getattr(shipped.energy, name)
        assert mine == pytest.approx(kept, rel=0.02), name
    for errors, by_size in ((shipped, ratios["latency"]), (shipped.energy, ratios["energy"])):
        for values in by_size.values():
            inside = (values >= errors.error_low) & (values <= errors.error_high)
            assert inside.mean() > 0.89


@pytest.mark.parametrize(
    "change",
    [{"nj_per_mac": -1.0}, {"call_mj": float("nan")}, {"error_low": 1.1}, {"widening": 0.9}],
)
def test_impossible_energy_rates_are_refused(change):
    good = {
        "nj_per_mac": 0.1, "nj_per_elem": 0.1, "kernel_mj": 0.0, "call_mj": 0.1,
        "error_low": 0.9, "error_high": 1.1, "level": 0.9, "n": 3, "least_mj": 1.0,
        "widening": 1.2,
    }  # fmt: skip
    EnergyRates(**good)
    with pytest.raises(SpecError, match="EnergyRates"):
        EnergyRates(**{**good, **change})
