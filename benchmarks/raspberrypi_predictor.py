"""Fit and check the latency and energy predictor of the Raspberry Pi 5 on published measurements.

    python benchmarks/raspberrypi_predictor.py --data DIR

It reads ``DIR/latency_hwnasbench360``: the cells of NAS-Bench-201 in networks of three input
sizes, measured with ONNX Runtime on a Raspberry Pi 5. It writes
``devices/predictors/raspberrypi5.json`` and ``benchmarks/results/raspberrypi_predictor.csv``.

The method: the networks are written down operator by operator, fused as everywhere, and the
logarithm of the error is minimized over three coefficients each: of the latency (a roofline) and
of the energy (a sum). A cost per kernel was zero in every fit and is left out. Isomorphic cells
share one measurement and count once. All errors and the intervals are of networks whose whole
input size was left out of the fit, which is the extrapolation that our networks ask for: the
cells differ in how their operators are connected, never in their shapes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from results_file import REPOSITORY, data_option, need_data, write_rows
from scipy import optimize

from nnfactory.devices.kernels import KernelWork, fuse_kernels
from nnfactory.devices.predictor import EnergyRates, Predictor, write_predictor
from nnfactory.factory.graph.costs import OpCost

Array = npt.NDArray[np.float64]

PLATFORM = "pi5_onnx"
CELLS = 700  # of 6,466 different ones, for every input size
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
CELLS_PER_STAGE, CHANNELS, CLASSES = 5, 16, 100
LEVEL = 0.9
SCALE = 0.1  # of the logarithmic error, above which a network counts linearly
DEPTHWISE_SHARE = 0.25  # of the dense rate; nobody measured it here
SOURCE = (
    "roldebijvank/HW-NAS-Bench-360, results/dataset.parquet (github.com, no licence stated; "
    "figures only): NAS-Bench-201 cells, ONNX Runtime, batch 1"
)
DOMAIN = (
    "NAS-Bench-201 networks (dense 3x3 and 1x1 convolutions of 16, 32 and 64 channels), FP32, "
    "batch 1, ONNX Runtime on the CPU with the origin's number of threads, which is not stated; "
    "measured: inputs of 32x32, 52x16 and 88x88, 0.7 to 138 ms. Other widths are extrapolated. "
    "Energy is what the origin measured, about 1.4 W while a network runs; what that includes is "
    "not stated there. "
    "Depthwise convolutions were not among them: a quarter of the dense rate is a guess."
)


@dataclass
class _Graph:
    """Operators in execution order, appended one by one."""

    input_elems: int
    ops: list[OpCost] = field(default_factory=list)

    def add(
        self, op: str, inputs: Sequence[int], out_elems: int, *, c_in: int = 0, c_out: int = 0,
        kernel: int = 0,
    ) -> int:  # fmt: skip
        """Append an operator; convolutions and linear layers have channels. Its position."""
        weights = c_in * c_out * max(1, kernel) ** 2
        read = sum(self.ops[i].out_elems if i >= 0 else self.input_elems for i in inputs)
        pixels = out_elems // c_out if c_out else 0
        self.ops.append(
            OpCost(
                op=op, name=str(len(self.ops)), macs=weights * pixels, in_elems=read,
                out_elems=out_elems, weight_elems=weights + c_out, c_in=c_in, c_out=c_out,
                kernel=kernel, inputs=tuple(inputs),
            )
        )  # fmt: skip
        return len(self.ops) - 1


def cell_network(edges: Sequence[str], input_chw: Sequence[int]) -> list[OpCost] | None:
    """The operators of a NAS-Bench-201 network; None if its cell answers nothing.

    Args:
        edges: Operation of each of ``EDGES``.
        input_chw: Channels, height and width of the input.

    Source:
        Dong and Yang, "NAS-Bench-201", arXiv:2001.00326: figure 1 and section 2.1.
    """
    channels, height, width = input_chw
    graph = _Graph(channels * height * width)
    c = CHANNELS
    x: int | None = graph.add("conv", [-1], c * height * width, c_in=channels, c_out=c, kernel=3)
    for stage in range(3):
        if stage:
            assert x is not None
            height, width = -(-height // 2), -(-width // 2)
            x = _reduction(graph, x, c, height, width)
            c *= 2
        for _ in range(CELLS_PER_STAGE):
            x = _cell(graph, x, edges, c, height * width)
            if x is None:
                return None
    x = graph.add("relu", [x or 0], c * height * width)
    x = graph.add("global_avg_pool", [x], c)
    graph.add("linear", [x], CLASSES, c_in=c, c_out=CLASSES)
    return graph.ops


def _reduction(graph: _Graph, x: int, c: int, height: int, width: int) -> int:
    """The residual block between stages: half the size, twice the channels."""
    area = height * width
    y = graph.add("relu", [x], graph.ops[x].out_elems)
    y = graph.add("conv", [y], 2 * c * area, c_in=c, c_out=2 * c, kernel=3)
    y = graph.add("relu", [y], 2 * c * area)
    y = graph.add("conv", [y], 2 * c * area, c_in=2 * c, c_out=2 * c, kernel=3)
    short = graph.add("avg_pool", [x], c * area, kernel=2)
    short = graph.add("conv", [short], 2 * c * area, c_in=c, c_out=2 * c, kernel=1)
    return graph.add("add", [y, short], 2 * c * area)


def _cell(graph: _Graph, x: int | None, edges: Sequence[str], c: int, area: int) -> int | None:
    """One cell; None where nothing reaches its last node."""
    nodes = [x]
    for target in (1, 2, 3):
        parts = []
        for (source, end), op in zip(EDGES, edges, strict=True):
            start = nodes[source] if end == target else None
            if start is None or op == "none":
                continue
            if op == "skip_connect":
                parts.append(start)
            elif op == "avg_pool_3x3":
                parts.append(graph.add("avg_pool", [start], c * area, kernel=3))
            else:
                y = graph.add("relu", [start], c * area)
                kernel = 3 if op == "nor_conv_3x3" else 1
                parts.append(graph.add("conv", [y], c * area, c_in=c, c_out=c, kernel=kernel))
        total = parts[0] if parts else None
        for part in parts[1:]:
            assert total is not None
            total = graph.add("add", [total, part], c * area)
        nodes.append(total)
    return nodes[3]


@dataclass(frozen=True)
class Measured:
    """Networks of one input size."""

    input_name: str
    work: list[KernelWork]
    latency_ms: Array
    energy_mj: Array


def read_measured(folder: Path, seed: int = 0) -> list[Measured]:
    """Some of the different cells at every input size, those that were measured."""
    with np.load(folder / "latency_hwnasbench360" / "data.npz", allow_pickle=False) as archive:
        data = {name: archive[name] for name in archive.files}
    platform = data["platforms"].tolist().index(PLATFORM)
    names = [str(name) for name in data["op_names"]]
    cells = np.random.default_rng(seed).permutation(np.unique(data["rep_arch_idx"]))[:CELLS]
    found = []
    for task, shape in enumerate(data["input_chw"].tolist()):
        work, latency, energy = [], [], []
        for cell in cells:
            ms, mj = (float(data[k][platform, task, cell]) for k in ("lat_ms_median", "energy_mj"))
            ops = cell_network([names[op] for op in data["arch_ops"][cell]], shape)
            if ops is not None and math.isfinite(ms) and math.isfinite(mj):
                work.append(KernelWork.of(fuse_kernels(ops)))
                latency.append(ms)
                energy.append(mj)
        size = "x".join(map(str, shape[1:]))
        found.append(Measured(size, work, np.array(latency), np.array(energy)))
    return found


def predictor_from_coefficients(logs: Array) -> Predictor:
    """A latency predictor without error figures from logarithms of its coefficients, (3,)."""
    dense, bandwidth, call = (float(value) for value in np.exp(logs))
    return Predictor(
        device="raspberrypi5", precision="fp32", bytes_per_elem=4, dense_gmacs=dense,
        depthwise_gmacs=DEPTHWISE_SHARE * dense, bandwidth_gbs=bandwidth, kernel_ms=0.0,
        call_ms=call, error_low=1.0, error_high=1.0, level=LEVEL, n=0, n_families=0,
        shortest_ms=1.0, widening=1.0,
    )  # fmt: skip


def rates_from_coefficients(logs: Array) -> EnergyRates:
    """Energy rates without error figures from logarithms of their coefficients, (3,)."""
    mac, elem, call = (float(value) for value in np.exp(logs))
    return EnergyRates(
        nj_per_mac=mac, nj_per_elem=elem, kernel_mj=0.0, call_mj=call, error_low=1.0,
        error_high=1.0, level=LEVEL, n=0, least_mj=1.0, widening=1.0,
    )  # fmt: skip


def latencies(logs: Array, sets: Sequence[Measured]) -> Array:
    """Predicted latency of every network, in milliseconds."""
    predictor = predictor_from_coefficients(logs)
    return np.array([predictor.predict_work(w).sum() for s in sets for w in s.work]) + float(
        np.exp(logs[2])
    )


def energies(logs: Array, sets: Sequence[Measured]) -> Array:
    """Predicted energy of every network, in millijoules."""
    rates = rates_from_coefficients(logs)
    return np.array([rates.predict_work(w).sum() for s in sets for w in s.work]) + float(
        np.exp(logs[2])
    )


QUANTITIES: Mapping[str, tuple[Callable[[Array, Sequence[Measured]], Array], str, list[float]]] = {
    "latency": (latencies, "latency_ms", [10.0, 20.0, 0.1]),
    "energy": (energies, "energy_mj", [0.12, 0.1, 0.2]),
}


def fit(quantity: str, sets: Sequence[Measured]) -> Array:
    """Logarithms of the three coefficients; few networks that are far off count less."""
    predict, name, start = QUANTITIES[quantity]
    measured = np.log(np.concatenate([getattr(s, name) for s in sets]))

    def residuals(logs: Array) -> Array:
        return np.log(predict(logs, sets)) - measured

    bounds = (np.log(start) - 7, np.log(start) + 7)
    found = optimize.least_squares(
        residuals, np.log(start), loss="soft_l1", f_scale=SCALE, bounds=bounds
    )
    return np.asarray(found.x)


def held_out(quantity: str, sets: Sequence[Measured]) -> dict[str, Array]:
    """Per input size measured over predicted, by a fit to the other sizes."""
    predict, name, _ = QUANTITIES[quantity]
    ratios = {}
    for left_out in sets:
        logs = fit(quantity, [other for other in sets if other is not left_out])
        ratios[left_out.input_name] = getattr(left_out, name) / predict(logs, [left_out])
    return ratios


def error_ends(ratios: Mapping[str, Array]) -> tuple[float, float]:
    """The least and the greatest end of the intervals of all left-out sizes."""
    tail = (1 - LEVEL) / 2
    low = min(float(np.quantile(values, tail)) for values in ratios.values())
    high = max(float(np.quantile(values, 1 - tail)) for values in ratios.values())
    return min(low, 1.0), max(high, 1.0)


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")


def _widening(ends: Sequence[float]) -> float:
    """Per halving below what was measured: the greater of the two errors once more."""
    return _four_digits(max(1.1, ends[1], 1 / ends[0]))


def build_predictor(sets: Sequence[Measured]) -> tuple[Predictor, dict[str, dict[str, Array]]]:
    """The predictor that is shipped, and held-out ratios by quantity and input size."""
    ratios = {quantity: held_out(quantity, sets) for quantity in QUANTITIES}
    ends = {quantity: [_four_digits(e) for e in error_ends(r)] for quantity, r in ratios.items()}
    count = sum(len(s.work) for s in sets)
    rates = rates_from_coefficients(fit("energy", sets))
    rates = dataclasses.replace(
        rates, error_low=ends["energy"][0], error_high=ends["energy"][1], n=count,
        nj_per_mac=_four_digits(rates.nj_per_mac), nj_per_elem=_four_digits(rates.nj_per_elem),
        call_mj=_four_digits(rates.call_mj), widening=_widening(ends["energy"]),
        least_mj=_four_digits(min(float(s.energy_mj.min()) for s in sets)),
    )  # fmt: skip
    predictor = predictor_from_coefficients(fit("latency", sets))
    low, high = ends["latency"]
    return dataclasses.replace(
        predictor, error_low=low, error_high=high, n=count, n_families=len(sets),
        dense_gmacs=_four_digits(predictor.dense_gmacs),
        depthwise_gmacs=_four_digits(predictor.depthwise_gmacs),
        bandwidth_gbs=_four_digits(predictor.bandwidth_gbs),
        call_ms=_four_digits(predictor.call_ms),
        shortest_ms=_four_digits(min(float(s.latency_ms.min()) for s in sets)),
        widening=_widening(ends["latency"]), domain=DOMAIN, sources=(SOURCE,),
        energy=rates,
    ), ratios  # fmt: skip


@click.command()
@data_option
def main(data_dir: Path) -> None:
    """Fit the predictor of the Raspberry Pi 5 and check it on held-out input sizes."""
    sets = read_measured(need_data(data_dir))
    predictor, ratios = build_predictor(sets)
    write_predictor(predictor, REPOSITORY / "devices" / "predictors" / f"{predictor.device}.json")
    rows: list[dict[str, object]] = []
    for quantity, by_size in ratios.items():
        for size, values in by_size.items():
            logs = np.log(values)
            rows.append(
                {
                    "quantity": quantity, "held out": size, "networks": len(values),
                    "mean error": round(math.expm1(float(np.abs(logs).mean())), 4),
                    "median ratio": round(float(np.median(values)), 4),
                    "ratio 5 %": round(float(np.quantile(values, 0.05)), 4),
                    "ratio 95 %": round(float(np.quantile(values, 0.95)), 4),
                }
            )  # fmt: skip
            click.echo("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    click.echo(write_rows("raspberrypi_predictor", rows))


if __name__ == "__main__":
    main()
