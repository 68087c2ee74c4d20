"""Fit and check the latency predictor of the Jetson Orin Nano on published measurements.

    python benchmarks/jetson_predictor.py --data DIR

It reads three folders of ``DIR``: ``latency_jetson_tables`` (published latencies of networks),
``latency_layers`` (their operators) and ``latency_orin_trt_layers`` (times of the layers of one
network). It writes ``devices/predictors/jetson-orin-nano.json`` and
``benchmarks/results/jetson_predictor.csv``. Without arguments the folder is the environment
variable NNFACTORY_DATA, or ``shared/data`` beside the repository.

The method: the logarithm of the error is minimized over five coefficients and the speed of the
Super board. The networks are few, so the rates and the cost per kernel are pulled towards those
fitted on the layer times alone. Every error and the interval come from networks whose whole
architecture family was left out of the fit. The form of the model (the longer of two times instead
of their sum, copies at full cost, no other boards) was chosen by the same error among about ten
forms, so that error is a little optimistic.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from nnfactory.devices.kernels import KernelWork, fuse_kernels
from nnfactory.devices.predictor import Predictor, write_predictor
from nnfactory.factory.graph.costs import OpCost

Array = npt.NDArray[np.float64]

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "jetson_predictor.csv"
COEFFICIENT_FILES = REPOSITORY / "devices" / "predictors"
BOARD, SUPER = "Jetson Orin Nano", "Jetson Orin Nano Super"
TARGETS = {("netspresso", BOARD), ("ultralytics", SUPER)}
OTHERS = {
    "roofline + AGX Orin": {("netspresso", "Jetson AGX Orin")},
    "roofline + AGX Xavier": {
        ("netspresso", "Jetson AGX Xavier"),
        ("torch2trt", "Jetson AGX Xavier"),
    },
}
COEFFICIENTS = ("dense_gmacs", "depthwise_gmacs", "bandwidth_gbs", "kernel_ms", "call_ms")
SPREADS = (0.7, 0.7, 0.5, 0.5, 1.0)  # of the logarithm of each coefficient around its prior
CALL_PRIOR_MS = 0.1  # the layer times say nothing about it
CLOCK_RATIO = 1020 / 625  # prior of the Super board's speed: its GPU clock over the other's
SIGMA, SIGMA_SPEED, SIGMA_BOARD = 0.15, 0.3, 1.0  # of log measured, log speed, other boards
OTHER_WEIGHT = 0.5
LEVEL = 0.9
FAST_MS = 4.0  # networks below are left out when extrapolation is checked
SMALL_MMACS = 2000.0
SOURCES = (
    "NetsPresso Trainer, docs/benchmarks/device_matrix/tensorrt.md "
    "(github.com/Nota-NetsPresso/netspresso-trainer, Apache-2.0): TensorRT FP16, batch 1",
    "Ultralytics, docs/en/guides/nvidia-jetson.md "
    "(github.com/ultralytics/ultralytics, AGPL-3.0; figures only): TensorRT FP16, batch 1",
    "fuzzylabs/edge-vision-power-estimation, model_training/data/mobilenet_v2 "
    "(github.com, Apache-2.0): times of TensorRT layers; prior of the coefficients",
)
DOMAIN = (
    "Convolutional networks, FP16, batch 1, TensorRT, 15 W mode; measured: 0.06 to 98 GMACs, 23 to "
    "312 kernels, 224 to 640 pixels, 1.56 ms and slower. Smaller inputs and faster networks are "
    "extrapolated; the interval widens for faster ones. Transformers run in fewer kernels than "
    "assumed here and are not covered. Grouped convolutions count as depthwise ones."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published latency and the work of its network.

    Attributes:
        source: Who measured it.
        board: Where.
        network: Name of the network.
        family: Its architecture family; left out as a whole.
        mmacs: Multiply-adds, in millions.
        measured_ms: Published latency, in milliseconds.
        work: Kernels of the network.
        in_domain: Whether it is a convolutional network.
    """

    source: str
    board: str
    network: str
    family: str
    mmacs: float
    measured_ms: float
    work: KernelWork
    in_domain: bool

    @property
    def is_target(self) -> bool:
        """Whether it is one of the boards the predictor is for."""
        return (self.source, self.board) in TARGETS


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A prediction for a network whose family the fit did not see."""

    row: Row
    predicted_ms: float

    @property
    def ratio(self) -> float:
        """Measured over predicted latency."""
        return self.row.measured_ms / self.predicted_ms


Model = Callable[[Predictor, KernelWork], float]


def roofline_ms(predictor: Predictor, work: KernelWork) -> float:
    """Latency as :class:`Predictor` says it."""
    return float(predictor.predict_work(work).sum()) + predictor.call_ms


def macs_only_ms(predictor: Predictor, work: KernelWork) -> float:
    """Baseline: one rate for all multiply-adds and a cost per call."""
    return float(work.macs.sum()) / predictor.dense_gmacs / 1e6 + predictor.call_ms


def kernels_only_ms(predictor: Predictor, work: KernelWork) -> float:
    """Baseline: one cost for all kernels and a cost per call."""
    return len(work.macs) * predictor.kernel_ms + predictor.call_ms


def read_rows(folder: Path) -> list[Row]:
    """Every FP16 TensorRT latency on a Jetson whose operators are known."""
    models = {
        line["name"]: line
        for line in _lines(folder / "latency_layers" / "models.csv")
        if line["source"] in ("netspresso", "torch2trt", "ultralytics")
    }
    with np.load(folder / "latency_layers" / "layers_jetson.npz", allow_pickle=False) as archive:
        layers = {name: archive[name] for name in archive.files}
    works: dict[str, KernelWork] = {}
    rows = []
    for line in _lines(folder / "latency_jetson_tables" / "jetson_tables.csv"):
        model = models.get(line["model"])
        if (line["framework"], line["precision"]) != ("tensorrt", "fp16") or model is None:
            continue
        graph_id = model["graph_id"]
        if graph_id not in works:
            works[graph_id] = KernelWork.of(fuse_kernels(ops_from_layers(layers, graph_id)))
        rows.append(
            Row(
                source=line["source"],
                board=line["board"],
                network=line["model"].split("/")[-1],
                family=model["family"],
                mmacs=float(model["total_macs"]) / 1e6,
                measured_ms=float(line["latency_ms"]),
                work=works[graph_id],
                in_domain=model["model_type"] != "transformer",
            )
        )
    return rows


def _lines(path: Path) -> Iterable[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def ops_from_layers(layers: dict[str, npt.NDArray[np.generic]], graph_id: str) -> list[OpCost]:
    """The operators of one graph in the layer table."""
    graph = layers["graph_id"].tolist().index(graph_id)
    start, stop = (int(place) for place in layers["row_start"][graph : graph + 2])
    ops = []
    for row in range(start, stop):
        first, last = (int(place) for place in layers["in_start"][row : row + 2])
        ops.append(
            OpCost(
                op=str(layers["op_names"][layers["op"][row]]),
                name=str(row - start),
                macs=int(layers["macs"][row]),
                in_elems=int(layers["in_elems"][row]),
                out_elems=int(layers["out_elems"][row]),
                weight_elems=int(layers["weight_elems"][row]),
                groups=int(layers["groups"][row]),
                c_in=int(layers["c_in"][row]),
                c_out=int(layers["c_out"][row]),
                kernel=int(layers["kh"][row]),
                inputs=tuple(int(place) for place in layers["in_position"][first:last]),
            )
        )
    return ops


def read_layer_times(folder: Path) -> tuple[KernelWork, Array]:
    """The convolutions of MobileNetV2 on an Orin board: their work, and milliseconds, (N,)."""
    macs, elems, grouped, measured_ms = [], [], [], []
    for line in _lines(folder / "latency_orin_trt_layers" / "convolutional.csv"):
        if "MATRIX" in line["layer_name"]:
            continue  # the classifier: 10 times slower than its size explains
        c_in, h_in, w_in = (int(float(line[f"input_size_{axis}"])) for axis in range(3))
        c_out, h_out, w_out = (int(float(line[f"output_size_{axis}"])) for axis in range(3))
        area = int(float(line["kernel_0"])) * int(float(line["kernel_1"]))
        is_depthwise = area > 1 and c_in == c_out  # holds for every layer of this network
        weights = c_out * area * (1 if is_depthwise else c_in)
        outputs = c_out * h_out * w_out * (2 if "ELEMENTWISE" in line["layer_name"] else 1)
        macs.append(weights * h_out * w_out)
        elems.append(c_in * h_in * w_in + outputs + weights)
        grouped.append(is_depthwise)
        measured_ms.append(float(line["runtime_ms"]))
    work = KernelWork(
        macs=np.array(macs, dtype=np.float64),
        traffic_elems=np.array(elems, dtype=np.float64),
        is_grouped=np.array(grouped, dtype=np.bool_),
    )
    return work, np.array(measured_ms, dtype=np.float64)


def predictor_from_coefficients(coefficients: Array) -> Predictor:
    """A predictor without error figures from the logarithms of its coefficients, (5,)."""
    dense, depthwise, bandwidth, kernel, call = (float(value) for value in np.exp(coefficients))
    return Predictor(
        device="jetson-orin-nano",
        precision="fp16",
        bytes_per_elem=2,
        dense_gmacs=dense,
        depthwise_gmacs=depthwise,
        bandwidth_gbs=bandwidth,
        kernel_ms=kernel,
        call_ms=call,
        error_low=1.0,
        error_high=1.0,
        level=LEVEL,
        n=0,
        n_families=0,
        shortest_ms=1.0,
        widening=1.0,
    )


def fit_layers(work: KernelWork, measured_ms: Array) -> tuple[Array, float]:
    """Prior of the coefficients from layer times, and the mean relative error it leaves.

    Returns:
        Logarithms of the coefficients, (5,), and the mean of |log(predicted / measured)|.
    """
    start = np.log([1500.0, 130.0, 60.0, 0.013, CALL_PRIOR_MS])

    def residuals(free: Array) -> Array:
        predictor = predictor_from_coefficients(np.append(free, start[4]))
        return np.asarray(np.log(predictor.predict_work(work) / measured_ms), dtype=np.float64)

    fitted = optimize.least_squares(residuals, start[:4])
    return np.append(fitted.x, start[4]), float(np.abs(fitted.fun).mean())


def fit(rows: Sequence[Row], prior: Array, model: Model = roofline_ms) -> tuple[Predictor, float]:
    """Coefficients for the Orin Nano and the speed of the Super board.

    Boards other than these two have three factors of their own (arithmetic, memory, costs).
    """
    boards = sorted({(row.source, row.board) for row in rows if not row.is_target})
    weights = np.array([1.0 if row.is_target else OTHER_WEIGHT for row in rows])
    measured = np.log([row.measured_ms for row in rows])

    def residuals(free: Array) -> Array:
        factors = dict(zip(boards, free[6:].reshape(-1, 3), strict=True))
        base = predictor_from_coefficients(free[:5])
        on_board = {
            key: predictor_from_coefficients(free[:5] + factor[[0, 0, 1, 2, 2]])
            for key, factor in factors.items()
        }
        predicted = [
            model(on_board.get((row.source, row.board), base), row.work)
            / (math.exp(free[5]) if row.board == SUPER else 1.0)
            for row in rows
        ]
        return np.concatenate(
            [
                (np.log(predicted) - measured) * weights / SIGMA,
                (free[:5] - prior) / SPREADS,
                (free[5:6] - math.log(CLOCK_RATIO)) / SIGMA_SPEED,
                free[6:] / SIGMA_BOARD,
            ]
        )

    start = np.concatenate([prior, [math.log(CLOCK_RATIO)], np.zeros(3 * len(boards))])
    free = optimize.least_squares(residuals, start).x
    return predictor_from_coefficients(free[:5]), float(np.exp(free[5]))


def hold_out_families(
    rows: Sequence[Row], prior: Array, model: Model = roofline_ms
) -> list[HeldOut]:
    """Predict every target network with its family left out, on all boards."""
    found = []
    for family in sorted({row.family for row in rows if row.is_target}):
        predictor, speed = fit([row for row in rows if row.family != family], prior, model)
        found += _predicted(
            [row for row in rows if row.family == family and row.is_target], predictor, speed, model
        )
    return found


def _predicted(
    rows: Iterable[Row], predictor: Predictor, speed: float, model: Model
) -> list[HeldOut]:
    return [
        HeldOut(
            row=row,
            predicted_ms=model(predictor, row.work) / (speed if row.board == SUPER else 1.0),
        )
        for row in rows
    ]


def error_interval(held_out: Sequence[HeldOut]) -> tuple[float, float]:
    """Ends of measured over predicted latency at ``LEVEL``.

    The wider, at each end, of two intervals: the conformal one over networks, which for fewer than
    40 is the least and the greatest ratio (n = 17: coverage 16/18 if networks were exchangeable),
    and Student's for the mean of a new family, because networks of one family err alike.
    """
    logs = np.log([item.ratio for item in held_out])
    families = sorted({item.row.family for item in held_out})
    means = np.array(
        [np.mean([v for v, i in zip(logs, held_out, strict=True) if i.row.family == f])
         for f in families]
    )  # fmt: skip
    n = len(families)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(means.std(ddof=1))
    half *= math.sqrt(1 + 1 / n)
    low = min(float(logs.min()), float(means.mean()) - half, 0.0)
    high = max(float(logs.max()), float(means.mean()) + half, 0.0)
    return math.exp(low), math.exp(high)


def extrapolation_widening(rows: Sequence[Row], prior: Array) -> float:
    """Factor per halving of latency below the fastest network that was measured.

    The greatest ``|log ratio|`` per halving, less than one halving counted as one, of

    - fast networks predicted by a fit to the slow ones;
    - a network of 20 kernels that cost nothing but themselves, when the cost of a call, which is
      known least, has a prior three times smaller or greater.

    The factor is 1.1 at least.
    """
    slow = [row for row in rows if row.measured_ms >= FAST_MS]
    predictor, speed = fit(slow, prior)
    fast = _predicted([r for r in rows if r.measured_ms < FAST_MS], predictor, speed, roofline_ms)
    shortest_ms = min(row.measured_ms for row in slow)
    rates = [
        abs(math.log(item.ratio)) / max(1.0, math.log2(shortest_ms / item.row.measured_ms))
        for item in fast
    ]
    base_ms = _costs_ms(rows, prior)
    halvings = max(1.0, math.log2(min(row.measured_ms for row in rows) / base_ms))
    for factor in (1 / 3, 3.0):
        shifted = prior + np.array([0, 0, 0, 0, math.log(factor)])
        rates.append(abs(math.log(_costs_ms(rows, shifted) / base_ms)) / halvings)
    return max(1.1, math.exp(max(rates)))


def _costs_ms(rows: Sequence[Row], prior: Array, kernels: int = 20) -> float:
    predictor, _ = fit(rows, prior)
    return kernels * predictor.kernel_ms + predictor.call_ms


def build_predictor(folder: Path) -> tuple[Predictor, list[HeldOut]]:
    """The predictor that is shipped, and the held-out predictions behind its interval."""
    prior, _ = fit_layers(*read_layer_times(folder))
    rows = [row for row in read_rows(folder) if row.is_target and row.in_domain]
    predictor, speed = fit(rows, prior)
    held_out = hold_out_families(rows, prior)
    low, high = error_interval(held_out)
    return dataclasses.replace(
        predictor,
        dense_gmacs=_rounded(predictor.dense_gmacs),
        depthwise_gmacs=_rounded(predictor.depthwise_gmacs),
        bandwidth_gbs=_rounded(predictor.bandwidth_gbs),
        kernel_ms=_rounded(predictor.kernel_ms),
        call_ms=_rounded(predictor.call_ms),
        error_low=_rounded(low),
        error_high=_rounded(high),
        n=len(held_out),
        n_families=len({item.row.family for item in held_out}),
        shortest_ms=min(row.measured_ms for row in rows),
        widening=_rounded(extrapolation_widening(rows, prior)),
        domain=DOMAIN,
        speeds={BOARD: 1.0, SUPER: _rounded(speed)},
        sources=SOURCES,
    ), held_out


def _rounded(number: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{number:.4g}")


def compare(folder: Path) -> dict[str, list[HeldOut]]:
    """Held-out predictions of the baselines and of fits that use other boards as well."""
    prior, _ = fit_layers(*read_layer_times(folder))
    in_domain = [row for row in read_rows(folder) if row.in_domain]
    targets = [row for row in in_domain if row.is_target]
    wide = np.log([1500.0, 130.0, 60.0, 0.05, 0.5])  # fits a baseline better than the layers' prior
    compared = {
        "MACs only": hold_out_families(targets, wide, macs_only_ms),
        "kernel count only": hold_out_families(targets, wide, kernels_only_ms),
    }
    for name, boards in OTHERS.items():
        rows = [row for row in in_domain if row.is_target or (row.source, row.board) in boards]
        compared[name] = hold_out_families(rows, prior)
    return compared


def errors(held_out: Sequence[HeldOut], *, below_mmacs: float = math.inf) -> float:
    """Mean of ``|log ratio|`` as a relative error, over networks below ``below_mmacs``."""
    logs = [math.log(item.ratio) for item in held_out if item.row.mmacs < below_mmacs]
    return math.expm1(float(np.mean(np.abs(logs))))


def write_results(
    path: Path, held_out: Sequence[HeldOut], compared: dict[str, list[HeldOut]]
) -> None:
    """Write every network with its held-out predictions as CSV, one column each for ``compared``.

    Networks outside the domain have no prediction there.
    """
    others = {
        (name, item.row.board, item.row.network): f"{item.predicted_ms:.3f}"
        for name, items in compared.items()
        for item in items
    }
    columns = [name.lower().replace(" + ", " with ").replace(" ", "_") for name in compared]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        for source in SOURCES:
            file.write(f"# {source}\n")
        file.write("# predicted_ms: fitted without the network's family\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["source", "board", "runtime", "precision", "batch", "network", "family", "mmacs",
             "kernels", "in_domain", "measured_ms", "predicted_ms", "ratio",
             *(f"{column}_ms" for column in columns)]
        )  # fmt: skip
        for item in held_out:
            row = item.row
            writer.writerow(
                [row.source, row.board, "tensorrt", "fp16", 1, row.network, row.family,
                 f"{row.mmacs:.0f}", len(row.work.macs), int(row.in_domain),
                 f"{row.measured_ms:.3f}", f"{item.predicted_ms:.3f}", f"{item.ratio:.3f}",
                 *(others.get((name, row.board, row.network), "") for name in compared)]
            )  # fmt: skip


def default_data() -> Path:
    """The folder of measurements: NNFACTORY_DATA, or ``shared/data`` beside the repository."""
    return Path(os.environ.get("NNFACTORY_DATA") or REPOSITORY.parent / "shared" / "data")


@click.command()
@click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the measurements.  [default: NNFACTORY_DATA, or ../shared/data]",
)
def main(data_dir: Path | None) -> None:
    """Fit the latency predictor of the Jetson Orin Nano and check it on held-out families."""
    folder = data_dir or default_data()
    if not (folder / "latency_layers" / "layers_jetson.npz").is_file():
        raise click.ClickException(
            f"{folder} holds no 'latency_layers/layers_jetson.npz'. Name the folder of the "
            "published measurements with --data or NNFACTORY_DATA."
        )
    predictor, held_out = build_predictor(folder)
    outside = [row for row in read_rows(folder) if row.is_target and not row.in_domain]
    shown = held_out + _predicted(outside, predictor, predictor.speeds[SUPER], roofline_ms)
    write_predictor(predictor, COEFFICIENT_FILES / f"{predictor.device}.json")
    compared = compare(folder)
    write_results(RESULTS, shown, compared)
    for item in shown:
        note = "" if item.row.in_domain else "  outside the domain"
        print(f"{item.row.network:20s}{item.row.measured_ms:8.2f} ms measured"
              f"{item.predicted_ms:8.2f} ms held out{item.ratio:6.2f}{note}")  # fmt: skip
    print(", ".join(f"{name} {getattr(predictor, name):.4g}" for name in COEFFICIENTS))
    print(f"Super board: speed {predictor.speeds[SUPER]}")
    print(
        f"measured over predicted {predictor.error_low} to {predictor.error_high} at {LEVEL}, "
        f"times {predictor.widening} per halving below {predictor.shortest_ms:.3g} ms"
    )
    for name, items in {"roofline": held_out, **compared}.items():
        print(f"{name:24s} held-out error {errors(items):6.1%}, below {SMALL_MMACS:.0f} MMACs "
              f"{errors(items, below_mmacs=SMALL_MMACS):6.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
