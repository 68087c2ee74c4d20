"""What cutting for a task costs in accuracy and buys in latency, beside honest baselines.

    python benchmarks/specialization.py --data DIR

Writes ``results/specialization.csv``. For tasks of several sizes, the library's full network with
logits masked to the task, and networks at half and a quarter of its measured latency:

* plan: what nnfactory builds, with the library's own normalization;
* uniform: the same share of every block, no block skipped; the input size is the one whose network
  is more accurate by the library's estimate;
* magnitude: the same exact choice, with the norm of the weights as the value of a module;
* random: random modules in random blocks, three draws a task.

All baselines have their normalization re-estimated on 256 training images, which favors them.
Magnitude and random keep the largest input size, which does not: their difference holds what a
smaller input buys.
Every network is brought to its target by what was measured, not by what the table says: the limit
given to the table is corrected by the measured ratio and the network is chosen again. Latencies
are medians, timed run by run in turn with the full network of the task. Accuracy is on the test
images of the task's classes; intervals (95 %) are bootstrap standard errors over images, and the
difference to the plan is resampled jointly.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import numpy as np
from baselines import magnitude, random_modules, uniform_width
from equal_latency import (
    Case,
    Make,
    Outcome,
    at_latency,
    case_of,
    chosen,
    full_active,
    libraries_with_data,
    outcome,
    plain_plan,
)
from results_file import data_option, need_data, write_rows

from nnfactory.factory.library.library import ModuleLibrary

TASKS = {"cls": ((10, 6), (50, 3)), "det": ((6, 4), (31, 1))}  # classes, number of tasks
SHARES = (0.5, 0.25)
DRAWS = 3
RESAMPLES = 400


@click.command()
@data_option
@click.option("--library", "names", multiple=True, help="Only these libraries.")
@click.option("--seed", default=0, show_default=True, help="Of the tasks and the random modules.")
def main(data_dir: Path, names: tuple[str, ...], seed: int) -> None:
    """Measure accuracy at equal latency."""
    need_data(data_dir)
    rows: list[dict[str, object]] = []
    for library, data in libraries_with_data(names, data_dir, ("train", "test")):
        rng = np.random.default_rng(seed)
        for size, count in TASKS[library.kind]:
            tasks = [rng.choice(len(library.classes), size, replace=False) for _ in range(count)]
            cases = [case_of(library, data, classes, rng) for classes in tasks]
            rows += _rows(library, size, cases, rng)
    click.echo(write_rows("specialization", rows, replace=("library",)))


def _rows(
    library: ModuleLibrary, size: int, cases: list[Case], rng: np.random.Generator
) -> list[dict[str, object]]:
    """One row per method and latency share, over all tasks of a size."""
    full = [outcome(case, plain_plan(case, full_active(case.library))) for case in cases]
    rows = [_row(library, size, "full, masked logits", 1.0, [[o] for o in full], None)]
    for share in SHARES:
        found: dict[str, list[list[Outcome]]] = {}
        for case, whole in zip(cases, full, strict=True):
            target = share * whole.latency_ms
            for method, makes in _makers(case, rng).items():
                mode = "own" if method == "plan" else "reestimated"
                outcomes = []
                for make in makes:
                    plan, latency = at_latency(case, make, target, mode)
                    outcomes.append(outcome(case, plan, mode, latency))
                found.setdefault(method, []).append(outcomes)
        for method, groups in found.items():
            rows.append(_row(library, size, method, share, groups, found["plan"]))
    return rows


def _makers(case: Case, rng: np.random.Generator) -> dict[str, list[Make]]:
    """Per method, functions from a limit of the table to a plan."""
    seeds = [int(rng.integers(1 << 30)) for _ in range(DRAWS)]
    return {
        "plan": [lambda ms: chosen(case, ms)],
        "uniform width": [lambda ms: uniform_width(case, ms)],
        "magnitude": [lambda ms: magnitude(case, ms)],
        "random modules": [partial(random_modules, case, seed=seed) for seed in seeds],
    }


def _row(
    library: ModuleLibrary, size: int, method: str, share: float,
    outcomes: list[list[Outcome]], plan: list[list[Outcome]] | None,
) -> dict[str, object]:  # fmt: skip
    """Means over tasks and draws, with bootstrap intervals over images."""
    rng = np.random.default_rng(0)
    draws, gaps = [], []
    for _ in range(RESAMPLES):
        values, others = [], []
        for position, group in enumerate(outcomes):
            n = group[0].images
            weights = rng.multinomial(n, np.full(n, 1 / n))
            values.append(np.mean([o.metric(weights) for o in group]))
            if plan is not None:
                others.append(np.mean([o.metric(weights) for o in plan[position]]))
        draws.append(np.mean(values))
        gaps.append(np.mean(others) - np.mean(values) if plan is not None else 0.0)
    flat = [o for group in outcomes for o in group]
    value = float(np.mean([np.mean([o.metric() for o in group]) for group in outcomes]))
    row: dict[str, object] = {
        "library": library.name, "classes": size, "tasks": len(outcomes), "method": method,
        "latency_share": share,
        "latency_ms": round(float(np.mean([o.latency_ms for o in flat])), 4),
        "mparams": round(float(np.mean([o.mparams for o in flat])), 4),
        "mmacs": round(float(np.mean([o.mmacs for o in flat])), 2),
        "metric": "AP50" if library.kind == "det" else "top-1",
        "value": round(value, 4),
        "low": round(max(0.0, value - 1.96 * float(np.std(draws))), 4),
        "high": round(min(1.0, value + 1.96 * float(np.std(draws))), 4),
        "images": sum(group[0].images for group in outcomes),
        "plan_ahead": "", "plan_ahead_low": "", "plan_ahead_high": "",
    }  # fmt: skip
    if plan is not None and method != "plan":
        ahead = float(np.mean([np.mean([o.metric() for o in group]) for group in plan])) - value
        low, high = ahead - 1.96 * np.std(gaps), ahead + 1.96 * np.std(gaps)
        row |= {
            "plan_ahead": round(ahead, 4), "plan_ahead_low": round(float(low), 4),
            "plan_ahead_high": round(float(high), 4),
        }  # fmt: skip
    click.echo(
        f"{library.name:8} {size:3} classes  {method:20} {share:4.2f}  {row['latency_ms']:.3f} ms  "
        f"{row['mparams']:.3f} M  {row['mmacs']:6.1f} MMACs  {row['metric']} {value:.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}]  ahead {row['plan_ahead']} "
        f"[{row['plan_ahead_low']}, {row['plan_ahead_high']}]"
    )
    return row


if __name__ == "__main__":
    main()
