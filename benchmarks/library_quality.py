"""How good the shipped module libraries are: whole, cut, and conditioned on the task.

    python benchmarks/library_quality.py --data DIR [--library NAME] [--part PART]

Writes ``results/library_quality.csv``, one row per claim with the bar it is held against, and
``results/library_quality_tasks.csv``, one row per network. All accuracies are on the test split.

* full: the whole network, all classes, and what nnfactory builds where nothing is limited, which
  may be of a smaller input; ten-class tasks at full size (tiny200).
* cutting: 30 random tasks of 2 to 20 classes; what nnfactory builds at half and a quarter of the
  full network's measured latency, against the full network with logits masked to the task.
* conditioning: 30 tasks, half of them of similar classes; at 10, 25 and 50 % of the latency what
  nnfactory builds against the same plan without the modulation.
* against: 10 tasks; what nnfactory builds at a quarter of the latency against networks that are
  trained for the task. It takes hours and the extra ``bench``, so it runs only if it is named;
  ``task_training.py`` describes it and runs it alone.

Differences are paired; their intervals (95 %) are Student's over tasks, each of which is one
observation. Intervals of single accuracies are the metric's own (Wilson, or a bootstrap over
images). Latencies are medians, timed in turn with the full network of the task.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from claims import Claim, case_row, mean_interval, network_row
from equal_latency import (
    Case,
    Outcome,
    at_latency,
    case_of,
    chosen,
    class_rows,
    full_active,
    libraries_with_data,
    outcome,
    plain_plan,
)
from results_file import data_option, need_data, write_rows

from nnfactory.factory.accuracy_measurement import images_at, matches, measure_accuracy
from nnfactory.factory.assembler.footprint import footprint
from nnfactory.factory.assembler.sizes import assemble_any_size
from nnfactory.factory.datasets import DataSet
from nnfactory.factory.library.library import CLASSES, ModuleLibrary
from nnfactory.factory.linker import link
from nnfactory.factory.schema import Budget, Plan

PARTS = ("full", "cutting", "conditioning")
SLOW_PARTS = ("against",)
TASKS = {"against": 10}
MORE_TASKS = 30  # of every other part
SHARES = {"cutting": (0.5, 0.25), "conditioning": (0.5, 0.25, 0.1)}


@click.command()
@data_option
@click.option("--library", "names", multiple=True, help="Only these libraries.")
@click.option(
    "--part", "parts", multiple=True, type=click.Choice((*PARTS, *SLOW_PARTS)),
    help="Only these parts.",
)  # fmt: skip
@click.option("--tasks", type=int, help="Tasks per part.")
def main(data_dir: Path, names: tuple[str, ...], parts: tuple[str, ...], tasks: int | None) -> None:
    """Measure the shipped libraries."""
    need_data(data_dir)
    claims: list[Claim] = []
    rows: list[dict[str, object]] = []
    for library, data in libraries_with_data(names, data_dir):
        for part in parts or PARTS:
            count = tasks or TASKS.get(part, MORE_TASKS)
            found, networks = globals()[f"_{part}"](library, data, count)
            claims += found
            rows += networks
            for claim in found:
                click.echo("  ".join(f"{k} {v}" for k, v in claim.row().items() if v != ""))
    click.echo(
        write_rows("library_quality", [c.row() for c in claims], replace=("library", "part"))
    )
    if rows:
        click.echo(write_rows("library_quality_tasks", rows, replace=("library", "part")))


def _full(
    library: ModuleLibrary, data: DataSet, tasks: int
) -> tuple[list[Claim], list[dict[str, object]]]:
    """The whole network on all classes and, for classifiers, on ten of them."""
    every = case_of(library, data, range(len(library.classes)), np.random.default_rng(0))
    whole = plain_plan(every, full_active(library))
    free = assemble_any_size(every.options, every.task, Budget())[0]
    claims = [
        _accuracy(every, "all classes", whole),
        _accuracy(every, "all classes, no limit", free),
    ]
    if library.kind == "det":
        network = link(library, whole).network
        found = matches(network, every.test, len(library.classes)).class_ap50()
        rows = [
            {"part": "full", "library": library.name, "what": name, "value": round(ap, 4)}
            for name, ap in zip(library.classes, found, strict=True)
            if ap is not None
        ]
        return claims, [network_row(**row) for row in rows]
    rng = np.random.default_rng(1)
    values = []
    for _ in range(tasks):
        case = case_of(library, data, rng.choice(len(library.classes), 10, replace=False), rng)
        values.append(outcome(case, plain_plan(case, full_active(library)), latency_ms=0).metric())
    claims.append(Claim("full", library.name, "10 classes", mean_interval(values)))
    return claims, []


def _accuracy(case: Case, what: str, plan: Plan) -> Claim:
    """What the network of a plan costs, and how accurate it is."""
    counts = {**plan.counts, CLASSES: len(case.classes)}
    size = footprint(case.library.at(plan.input_size))
    network = link(case.library, plan).network
    images = images_at(case.test, plan.input_size)
    return Claim(
        "full", case.library.name, what, measure_accuracy(network, images, len(case.classes)),
        size.total_params(counts) / 1e6, size.total_macs(counts) / 1e6,
    )  # fmt: skip


def _cutting(
    library: ModuleLibrary, data: DataSet, tasks: int
) -> tuple[list[Claim], list[dict[str, object]]]:
    """What nnfactory builds against the full network with masked logits."""
    rng = np.random.default_rng(2)
    gaps: dict[float, list[float]] = {share: [] for share in SHARES["cutting"]}
    rows = []
    for number in range(tasks):
        size = int(rng.integers(2, min(20, len(library.classes)) + 1))
        case = case_of(library, data, rng.choice(len(library.classes), size, replace=False), rng)
        whole = outcome(case, plain_plan(case, full_active(library)))
        rows.append(case_row("cutting", case, number, "full, masked logits", 1.0, whole))
        for share, found in gaps.items():
            built = _built(case, share * whole.latency_ms)
            found.append(built.metric() - whole.metric())
            rows.append(case_row("cutting", case, number, "built", share, built))
    claims = [
        Claim("cutting", library.name, f"{share:g}", mean_interval(found))
        for share, found in gaps.items()
    ]
    if library.kind == "cls":
        values = []
        for _ in range(tasks):
            case = case_of(library, data, rng.choice(len(library.classes), 10, replace=False), rng)
            whole_ms = outcome(case, plain_plan(case, full_active(library))).latency_ms
            values.append(_built(case, 0.25 * whole_ms).metric())
        claims.append(Claim("cutting", library.name, "10 classes at 0.25", mean_interval(values)))
    return claims, rows


def _conditioning(
    library: ModuleLibrary, data: DataSet, tasks: int
) -> tuple[list[Claim], list[dict[str, object]]]:
    """The modulated network against the plain slice of the same plan."""
    if library.modulation is None:
        click.echo(f"{library.name} has no modulation: it did not help on validation images")
        return [], []
    rng = np.random.default_rng(3)
    gaps: dict[float, list[float]] = {share: [] for share in SHARES["conditioning"]}
    rows = []
    for number in range(tasks):
        size = int(rng.integers(2, min(20, len(library.classes)) + 1))
        classes = (
            rng.choice(len(library.classes), size, replace=False)
            if number % 2
            else similar_classes(library, size, rng)
        )
        case = case_of(library, data, classes, rng)
        whole = outcome(case, plain_plan(case, full_active(library)))
        for share, found in gaps.items():
            plan, latency = at_latency(
                case, lambda ms, c=case: chosen(c, ms), share * whole.latency_ms
            )
            kind = "random" if number % 2 else "similar"
            values = []
            for method, is_modulated in (("modulated", True), ("plain", False)):
                result = outcome(case, replace(plan, is_modulated=is_modulated), "own", latency)
                values.append(result.metric())
                rows.append(
                    case_row("conditioning", case, number, f"{method}, {kind}", share, result)
                )
            found.append(values[0] - values[1])
    return [
        Claim("conditioning", library.name, f"{share:g}", mean_interval(found))
        for share, found in gaps.items()
    ], rows


def _against(
    library: ModuleLibrary, data: DataSet, tasks: int
) -> tuple[list[Claim], list[dict[str, object]]]:
    """What nnfactory builds against networks that are trained for the task."""
    from task_training import against  # needs torch and torch-pruning

    return against(library, data, tasks)


def similar_classes(library: ModuleLibrary, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random class and some of those that the last layer finds closest to it."""
    rows = class_rows(library)
    middle = int(rng.integers(len(rows)))
    near = np.argsort(-(rows @ rows[middle]))[1 : max(size, min(len(rows), 2 * size))]
    return np.append(rng.choice(near, size - 1, replace=False), middle)


def _built(case: Case, target_ms: float) -> Outcome:
    plan, latency = at_latency(case, lambda ms: chosen(case, ms), target_ms)
    return outcome(case, plan, "own", latency)


if __name__ == "__main__":
    main()
