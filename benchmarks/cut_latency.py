"""How well the latency of cut networks is known before they are made.

    python benchmarks/cut_latency.py --data DIR [--network NAME]

``nnfactory disassemble`` chooses channels by a table of latencies: a sum over layers, each measured
by itself at all widths. Here random cut networks are measured as a whole, time of the processor in
one thread beside the whole network. ``layers`` is how far they are from the table, and
``multiply_adds`` how far from the same sum of multiply-adds, scaled in the same way: the square
root of the mean of (measured / predicted - 1) squared, with a 95 % interval (bootstrap over
networks). ``seconds`` is what the table takes, ``measured`` the layers of it. Written to
``results/cut_latency.csv``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from cifar_networks import FOLDER
from detector_components import CLASSES, HEADS, detector_of
from disassembly import NETWORKS, OWN, TASKS, case_of, donor_of
from results_file import data_option, need_data, write_rows
from sized_components import steadily
from steady_latency import Beside

from nnfactory.api.component_case import Case, open_case
from nnfactory.devices.parts import PartLatency
from nnfactory.factory.graph.costs import op_costs
from nnfactory.factory.graph.network import Array, Network, tensor_shapes
from nnfactory.factory.reuse.disassembly.costs import dependents, left_of, sizes_of
from nnfactory.factory.reuse.disassembly.families import Anatomy, narrowed
from nnfactory.factory.reuse.disassembly.layer_latency import timed

DRAWN, BRANCHES_OUT = 24, 0.3  # cut networks, and the share of their branches that is left out
SHARES = (0.1, 0.6)  # of the channels that stay, on average
SPREAD = 1.5  # eighths, between families of one network


@click.command()
@data_option
@click.option("--network", "names", multiple=True, type=click.Choice([*NETWORKS, *HEADS]))
@click.option("--networks", "own_dir", type=click.Path(path_type=Path), default=FOLDER,
              help="What cifar_networks.py wrote.")  # fmt: skip
def main(data_dir: Path, names: tuple[str, ...], own_dir: Path) -> None:
    """Measure cut networks against the table that they are chosen by."""
    need_data(data_dir)
    for name in names or (*NETWORKS, *HEADS):
        if name in OWN and not (own_dir / f"{name}.onnx").is_file():
            click.echo(f"{name} is skipped: cifar_networks.py has not written it to {own_dir}.")
            continue
        row = _row(name, _case(data_dir, name, own_dir))
        click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
        click.echo(write_rows("cut_latency", [row], replace=("network",)))


def _case(data_dir: Path, name: str, own_dir: Path) -> Case:
    if name in HEADS:
        return open_case(detector_of(data_dir, name), data_dir / "coco256", CLASSES, 100)
    donor = donor_of(data_dir, name, own_dir)
    return case_of(data_dir, donor, NETWORKS[name], TASKS["0-2"], fitting=100, judging=100)


def _row(name: str, case: Case) -> dict[str, object]:
    anatomy, answering = case.anatomy, case.kind.answering
    clock, parts, layers = Beside(answering(anatomy.network)), PartLatency("host"), [0]

    def whole_ms(network: Network) -> float:
        return steadily(clock, answering(network))

    def layer_ms(network: Network) -> float:
        layers[0] += 1
        return parts.layer(network)

    began = time.perf_counter()
    table = timed(anatomy, whole_ms, layer_ms)
    seconds = time.perf_counter() - began
    tables = {"layers": table, "multiply_adds": timed(anatomy, whole_ms, _mmacs)}
    errors: dict[str, list[float]] = {of: [] for of in tables}
    for sizes, network in _drawn(anatomy):
        ms = whole_ms(network)
        for of, table in tables.items():
            errors[of].append(ms / left_of(anatomy, table, sizes) - 1)
    row: dict[str, object] = {"network": name, "families": len(anatomy.families)}
    row |= {"measured": layers[0], "seconds": round(seconds, 1), "networks": DRAWN}
    for of, mine in errors.items():
        row |= _errors(of, np.array(mine))
    return row


def _mmacs(network: Network) -> float:
    return sum(row.macs for row in op_costs(network, tensor_shapes(network))) / 1e6


def _drawn(anatomy: Anatomy) -> Iterator[tuple[dict[str, int], Network]]:
    """Cut networks: sizes around a share, some branches left out."""
    rng = np.random.default_rng(0)
    for _ in range(DRAWN):
        share, sizes = rng.uniform(*SHARES), {}
        for family in anatomy.families:
            some = [size for size in sizes_of(family) if size]
            place = len(some) * share + SPREAD * rng.normal() - 1
            sizes[family.name] = some[int(np.clip(round(place), 0, len(some) - 1))]
            if family.branch and rng.random() < BRANCHES_OUT:
                sizes[family.name] = 0
        whole = {family.name: len(family.groups) for family in anatomy.families}
        for family in anatomy.families:
            if not sizes[family.name]:  # what goes with a branch counts as whole
                sizes |= {name: whole[name] for name in dependents(anatomy, family)}
        network, _ = narrowed(anatomy, {name: range(size) for name, size in sizes.items()})
        yield sizes, network


def _errors(of: str, errors: Array) -> dict[str, float]:
    rng = np.random.default_rng(0)
    draws = [rng.choice(errors, len(errors)) for _ in range(2000)]
    low, high = np.percentile([np.sqrt(np.mean(drawn**2)) for drawn in draws], [2.5, 97.5])
    value = float(np.sqrt(np.mean(errors**2)))
    return {of: round(value, 3), f"{of}_low": round(low, 3), f"{of}_high": round(high, 3)}


if __name__ == "__main__":
    main()
