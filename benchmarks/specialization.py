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

from nnfactory.factory.assembler.knapsack import solve
from nnfactory.factory.assembler.problem import estimate, problem_for
from nnfactory.factory.library.library import CLASSES, ModuleLibrary
from nnfactory.factory.schema import Plan

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
        "uniform width": [lambda ms: _uniform(case, ms)],
        "magnitude": [lambda ms: _magnitude(case, ms)],
        "random modules": [partial(_random, case, seed=seed) for seed in seeds],
    }


def _uniform(case: Case, limit_ms: float) -> Plan:
    """The largest share of every block that fits, at the size where it is estimated best."""
    shares = [
        {s.name: max(1, round(share * s.groups)) for s in case.library.blocks}
        for share in np.linspace(0, 1, 81)
    ]
    best, found = -1.0, plain_plan(case, {name: range(n) for name, n in shares[0].items()})
    for option in case.options:
        problem = problem_for(option.library, case.task, option.table)
        for counts in shares:
            costs = estimate(problem, counts, 50)
            assert costs.latency_ms is not None
            assert costs.accuracy is not None
            if costs.latency_ms.value <= limit_ms and costs.accuracy.value > best:
                active = {name: range(n) for name, n in counts.items()}
                found = plain_plan(case, active, option.library.input_size)
                best = costs.accuracy.value
    return found


def _magnitude(case: Case, limit_ms: float) -> Plan:
    """The exact choice with normalized weight norms as values (LAMP-like, arXiv:2010.07611)."""
    values, order = {}, {}
    for slot in case.library.blocks:
        norms = np.zeros(slot.groups)
        for module in slot.modules:
            for owned in module.owns:
                weight = case.library.network.weights[owned.tensor]
                if weight.ndim == 4:
                    part = np.take(weight, np.arange(owned.start, owned.stop), axis=owned.axis)
                    norms[module.index] += float((part.astype(np.float64) ** 2).sum())
        ranked = np.argsort(-norms)
        order[slot.name] = ranked
        rest = np.cumsum(norms[ranked][::-1])[::-1]
        scores = norms[ranked] / rest  # share of the mass that is left, best first
        scores = np.sort(scores)[::-1]
        values[slot.name] = [0, *np.cumsum(np.round(scores * 1e9)).astype(int).tolist()]
    costs = {s.name: case.table.slots[s.name] for s in case.library.blocks}
    least = {s.name: s.min_groups for s in case.library.blocks}
    solved = solve(costs, values, least)
    fixed = case.table.fixed_ns + case.table.slots[CLASSES][len(case.classes)]
    position = solved.best(int(limit_ms * 1e6) - fixed)
    counts = solved.counts(position or 0)
    return plain_plan(case, {name: order[name][:count].tolist() for name, count in counts.items()})


def _random(case: Case, limit_ms: float, seed: int) -> Plan:
    """Random modules, added in random order while the table says that they fit."""
    rng = np.random.default_rng(seed)
    active: dict[str, list[int]] = {
        s.name: [int(rng.integers(s.groups))] if s.min_groups else [] for s in case.library.blocks
    }
    modules = [(s.name, g) for s in case.library.blocks for g in range(s.groups)]
    for position in rng.permutation(len(modules)):
        name, group = modules[position]
        if group in active[name]:
            continue
        active[name].append(group)
        if case.table_ms({n: len(groups) for n, groups in active.items()}) > limit_ms:
            active[name].remove(group)
    return plain_plan(case, active)


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
