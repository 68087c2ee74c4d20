"""Which way of choosing modules is the best: accuracy against measured latency, all methods.

    python benchmarks/assembler_quality.py --data DIR [--library NAME] [--tasks N] [--evolved N]
    python benchmarks/assembler_quality.py --data DIR --sizes [--library NAME] [--tasks N]
    python benchmarks/assembler_quality.py --draw

Writes ``results/assembler_quality.csv`` and a picture of it. For random tasks of 2 to 20 classes,
every other one of similar classes, at five shares of the full network's measured latency:

* built: what nnfactory builds, the input size included;
* and at the largest input size, the exact choice on this machine's
  latency table, which nothing was trained or chosen with, for values that are
    - shared curves: what nnfactory builds with, the same for every class;
    - class curves: the same measured per class and added up;
    - taylor: first-order importance per class, added up;
    - regressed, regressed per class: monotone curves fitted to the losses of random networks;
    - generated: those of a network trained on random tasks and budgets (``generated_values.py``);
* re-ranked: of the plans of the frontier next to that of the shared curves, the one that is best on
  validation images of the task;
* evolution: a genetic search on the same images, population 150, 50 generations (the setting of
  AdaptiveNet, arXiv:2303.07129), for the first tasks at one budget: it takes minutes for each;
* uniform width, magnitude, random modules: see ``specialization.py``; the last two with their
  normalization re-estimated on training images.

Every network is brought to its target by what was measured, re-ranked and evolved ones from the
table's limit of the shared curves. Accuracy is on test images; differences from the shared curves
are paired, with Student's 95 % intervals over tasks. ``--sizes`` measures only the two ways that
choose the input size anew, and shared curves "again" with them, which they are held against.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from baselines import exact_counts, latency_knapsack, magnitude, random_modules, uniform_width
from claims import mean_interval
from equal_latency import (
    Case,
    Make,
    at_latency,
    case_of,
    chosen,
    class_rows,
    full_active,
    libraries_with_data,
    linked,
    measure,
    outcome,
    plain_plan,
)
from library_quality import similar_classes
from results_file import RESULTS, data_option, need_data, read_rows, write_rows

from nnfactory.factory.accuracy_measurement import class_accuracies, task_images
from nnfactory.factory.assembler.assemble import plan_from_counts
from nnfactory.factory.assembler.values import class_values
from nnfactory.factory.datasets import Images
from nnfactory.factory.graph.network import Array
from nnfactory.factory.library.library import CLASSES, ModuleLibrary
from nnfactory.factory.linker import link
from nnfactory.factory.schema import Plan
from nnfactory.factory.supernet.measurements import proxy_table

SEED = 41
SHARES = (0.2, 0.3, 0.4, 0.55, 0.75)
EVOLVED_SHARE = 0.4
SIZED = ("built", "uniform width")  # choose the input size, too
QUICK = (*SIZED, "magnitude", "random modules")  # nothing is learned for them
EVOLVED = {"cls": 2, "det": 0}  # tasks; a detector takes hours
CANDIDATES = {"cls": 20, "det": 6}  # that are re-ranked
POPULATION, GENERATIONS, EVOLUTION_IMAGES = 150, 50, 200
REGRESSED_PLANS = 1000
GENERATOR_STEPS = {"cls": 3000, "det": 600}
BASE = "shared curves"
AGAIN = "shared curves, again"  # measured with those that choose the input size
FULL = "full, masked logits"
SCALE = 10**9
_LOOKS: dict[str, dict[str, Any]] = {
    "built": {"color": "black", "linewidth": 2.5, "marker": "o"},
    AGAIN: {"color": "black", "linewidth": 1, "linestyle": "--", "marker": "."},
    FULL: {"color": "black", "linestyle": "", "marker": "*", "markersize": 12},
    "magnitude": {"color": "gray", "linestyle": ":", "marker": "x"},
    "random modules": {"color": "gray", "linestyle": "--", "marker": "x"},
}
Rows = Callable[["Case", float], Array]  # of a task and a share of the full latency


@dataclass(frozen=True)
class Cell:
    """One method at one share for one task."""

    task: int
    method: str
    share: float
    latency_ms: float
    metric: float


@click.command()
@data_option
@click.option("--library", "names", multiple=True, help="Only these libraries.")
@click.option("--tasks", default=30, show_default=True, help="Tasks per library.")
@click.option("--evolved", type=int, help="Tasks with a genetic search.  [default: cls 2, det 0]")
@click.option("--sizes", "is_sized", is_flag=True,
              help="Measure only what chooses the input size anew.")  # fmt: skip
@click.option("--draw", is_flag=True, help="Only draw what was measured before.")
def main(
    data_dir: Path, names: tuple[str, ...], tasks: int, evolved: int | None,
    is_sized: bool, draw: bool,
) -> None:  # fmt: skip
    """Compare ways of choosing modules."""
    if draw:
        known = read_rows("assembler_quality")
        for name in dict.fromkeys(row["library"] for row in known):
            click.echo(_picture(name, [row for row in known if row["library"] == name]))
        return
    need_data(data_dir)
    ways = SIZED if is_sized else QUICK
    for library, data in libraries_with_data(names, data_dir):
        sources = {BASE: _stored(library)[BASE]} if is_sized else _sources(library, data.train)
        rng = np.random.default_rng(SEED)
        cells: list[Cell] = []
        for number in range(tasks):
            size = int(rng.integers(2, min(20, len(library.classes)) + 1))
            classes = (
                rng.choice(len(library.classes), size, replace=False)
                if number % 2
                else similar_classes(library, size, rng)
            )
            case = case_of(library, data, classes, rng)
            images = None if is_sized else task_images(data.validation, case.classes)
            search = number < (EVOLVED[library.kind] if evolved is None else evolved)
            cells += _cells(number, case, sources, ways, images, search, rng)
            rows = _rows(library, cells)
            if is_sized:
                rows = [row | {"method": AGAIN} for row in rows if row["method"] == BASE] + [
                    row for row in rows if row["method"] in ways
                ]
            key = ("library", "method") if is_sized else ("library",)
            path = write_rows("assembler_quality", rows, replace=key)
            click.echo(f"{library.name}: {number + 1} of {tasks} tasks")
        for row in rows:
            click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
        rows = [row for row in read_rows("assembler_quality") if row["library"] == library.name]
        click.echo(f"{path}, {_picture(library.name, rows)}")


def _sources(library: ModuleLibrary, images: Images) -> dict[str, Rows]:
    """Values by method, see :func:`_stored`, those that have to be learned included."""
    from generated_values import generated_curve, learn_generator
    from regressed_values import regressed_curves
    from trainable import supernet_of

    network = supernet_of(library)
    with click.progressbar(length=REGRESSED_PLANS, label="random networks") as bar:
        shared, per_class = regressed_curves(
            network, images, len(library.classes), plans=REGRESSED_PLANS,
            report=lambda done, total: bar.update(1),
        )  # fmt: skip
    costs, fixed = _proxy_shares(library)
    steps = GENERATOR_STEPS[library.kind]
    with click.progressbar(length=steps, label="generator") as bar:
        generator = learn_generator(
            network, images, class_rows(library), costs, fixed, steps=steps,
            report=lambda done, total: bar.update(1),
        )  # fmt: skip
    return {
        **_stored(library),
        "regressed": partial(_of_classes, shared),
        "regressed per class": partial(_of_classes, per_class),
        "generated": lambda case, share: generated_curve(generator, costs, case.classes, share),
    }


def _stored(library: ModuleLibrary) -> dict[str, Rows]:
    """Values that the library holds: (K, J) for 0, 1, .. groups, block after block."""
    names = {BASE: "shared curves", "class curves": "curves", "taylor": "blend"}
    return {
        name: partial(_of_classes, class_values(library, source)) for name, source in names.items()
    }


def _of_classes(rows: Array, case: Case, share: float) -> Array:
    return rows if len(rows) == 1 else rows[list(case.classes)]


def _proxy_shares(library: ModuleLibrary) -> tuple[Array, float]:
    """Of the full proxy latency: what each group costs, and what every plan does."""
    table = proxy_table(library)
    costs = np.concatenate([np.diff(np.array(table.slots[s.name], float)) for s in library.blocks])
    fixed = float(table.fixed_ns + table.slots[CLASSES][min(10, len(library.classes))])
    total = fixed + costs.sum()
    return costs / total, fixed / total


def _cells(
    number: int, case: Case, sources: Mapping[str, Rows], ways: Sequence[str],
    validation: Images | None, search: bool, rng: np.random.Generator,
) -> list[Cell]:  # fmt: skip
    """Every method at every share for one task; none that needs validation images without any."""
    whole = outcome(case, plain_plan(case, full_active(case.library)))
    cells = [Cell(number, FULL, 1.0, whole.latency_ms, whole.metric())]
    quick = _quick(case, int(rng.integers(1 << 30)))
    for share in SHARES:
        target = share * whole.latency_ms
        found: dict[str, tuple[Plan, float, str]] = {}
        for method, rows in sources.items():
            values = _integers(case, rows(case, share))
            found[method] = (*at_latency(case, partial(_exact, case, values), target), "own")
        for way in ways:
            make, mode = quick[way]
            found[way] = (*at_latency(case, make, target, mode), mode)
        limit = case.table_ms(found[BASE][0].counts)
        if validation is not None:
            plans = _neighbors(case, _integers(case, sources[BASE](case, share)), limit)
            found["re-ranked"] = _measured(case, _best_of(case, plans, validation))
        if validation is not None and search and share == EVOLVED_SHARE:
            found["evolution"] = _measured(case, _evolved(case, limit, validation, rng))
        for method, (plan, latency, mode) in found.items():
            metric = outcome(case, plan, mode, latency).metric()
            cells.append(Cell(number, method, share, latency, metric))
    return cells


def _quick(case: Case, seed: int) -> dict[str, tuple[Make, str]]:
    """Ways for which nothing is learned: how they make a plan, and their normalization."""
    return {
        "built": (partial(chosen, case), "own"),
        "uniform width": (partial(uniform_width, case), "own"),
        "magnitude": (partial(magnitude, case), "reestimated"),
        "random modules": (partial(random_modules, case, seed=seed), "reestimated"),
    }


def _integers(case: Case, rows: Array) -> dict[str, tuple[int, ...]]:
    """Values of the task per block as integers; the task's are the mean of its classes'."""
    mean, start, values = rows.mean(0), 0, {}
    ends = np.cumsum([slot.groups + 1 for slot in case.library.blocks]) - 1
    scale = SCALE / max(float(mean[ends].sum()), 1e-30)
    for slot in case.library.blocks:
        part = mean[start : start + slot.groups + 1] * scale
        values[slot.name] = tuple(round(float(value)) for value in part)
        start += slot.groups + 1
    return values


def _exact(case: Case, values: dict[str, tuple[int, ...]], limit_ms: float) -> Plan:
    return plan_from_counts(case.library, case.task, exact_counts(case, values, limit_ms))


def _neighbors(
    case: Case, values: dict[str, tuple[int, ...]], limit_ms: float
) -> list[dict[str, int]]:
    """The last choices of the frontier within a limit of the table."""
    solved, limit = latency_knapsack(case, values, limit_ms + 1e-6)
    last = solved.best(limit) or 0
    first = max(0, last + 1 - CANDIDATES[case.library.kind])
    return [solved.counts(position) for position in range(first, last + 1)]


def _best_of(case: Case, plans: list[dict[str, int]], images: Images) -> Plan:
    """The plan of the greatest accuracy; of equals the last, which costs most."""
    found = [plan_from_counts(case.library, case.task, counts) for counts in plans]
    scores = [_accuracy(case, plan, images) for plan in found]
    return found[max(range(len(found)), key=lambda position: (scores[position], position))]


def _accuracy(case: Case, plan: Plan, images: Images) -> float:
    network = link(case.library, plan).network
    return class_accuracies(network, images, len(case.classes)).value


def _measured(case: Case, plan: Plan) -> tuple[Plan, float, str]:
    return plan, measure(case, linked(case, plan)), "own"


def _evolved(case: Case, limit_ms: float, images: Images, rng: np.random.Generator) -> Plan:
    """Genetic search for the plan of the greatest accuracy on images within the table's limit."""
    few = images.subset(rng.permutation(len(images))[:EVOLUTION_IMAGES])
    names = [slot.name for slot in case.library.blocks]
    most = np.array([slot.groups for slot in case.library.blocks])
    least = np.array([slot.min_groups for slot in case.library.blocks])
    scores: dict[tuple[int, ...], float] = {}

    def counts_of(genes: Array) -> dict[str, int]:
        return dict(zip(names, map(int, genes), strict=True))

    def fitting(genes: Array) -> Array:
        """Groups taken away at random until it fits, then given while it does."""
        genes = genes.copy()
        while case.table_ms(counts_of(genes)) > limit_ms:
            block = int(rng.choice(np.flatnonzero(genes > least)))
            genes[block] -= 1
        for block in rng.permutation(len(genes)):
            while genes[block] < most[block]:
                genes[block] += 1
                if case.table_ms(counts_of(genes)) > limit_ms:
                    genes[block] -= 1
                    break
        return genes

    def score(genes: Array) -> float:
        key = tuple(map(int, genes))
        if key not in scores:
            plan = plan_from_counts(case.library, case.task, counts_of(genes))
            scores[key] = _accuracy(case, plan, few)
        return scores[key]

    pool = [fitting(rng.integers(least, most + 1)) for _ in range(POPULATION)]
    for _ in range(GENERATIONS):
        parents = sorted(pool, key=score, reverse=True)[: POPULATION // 4]
        pool = list(parents)
        while len(pool) < POPULATION:
            one, other = (parents[int(i)] for i in rng.integers(0, len(parents), 2))
            child = np.where(rng.random(len(one)) < 0.5, one, other)
            changed = rng.random(len(child)) < 0.2
            child = np.where(changed, rng.integers(least, most + 1), child)
            pool.append(fitting(child))
    best = max(pool, key=score)
    return plan_from_counts(case.library, case.task, counts_of(best))


def _rows(library: ModuleLibrary, cells: list[Cell]) -> list[dict[str, object]]:
    """Means over tasks, and paired differences from the values that nnfactory builds with."""
    base = {(c.task, c.share): c.metric for c in cells if c.method == BASE}
    rows = []
    for method, share in dict.fromkeys((c.method, c.share) for c in cells):
        mine = [c for c in cells if (c.method, c.share) == (method, share)]
        value = mean_interval([c.metric for c in mine])
        row: dict[str, object] = {
            "library": library.name, "method": method, "share": share, "tasks": len(mine),
            "latency_ms": round(float(np.mean([c.latency_ms for c in mine])), 4),
            "metric": "AP50" if library.kind == "det" else "top-1",
            "value": round(value.value, 4), "difference": "", "d_low": "", "d_high": "",
        }  # fmt: skip
        if method not in (FULL, BASE):
            gap = mean_interval([c.metric - base[c.task, c.share] for c in mine])
            row |= {
                "difference": round(gap.value, 4), "d_low": round(gap.low, 4),
                "d_high": round(gap.high, 4),
            }  # fmt: skip
        rows.append(row)
    return rows


def _picture(library: str, rows: Sequence[Mapping[str, object]]) -> Path:
    """Accuracy against the share of the latency, a line per method; without those of few tasks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    most = max(int(str(row["tasks"])) for row in rows)
    usual = [row for row in rows if int(str(row["tasks"])) == most]
    colors = itertools.cycle(pyplot.get_cmap("tab10")(range(10)))
    figure, axes = pyplot.subplots(figsize=(7.5, 5), layout="constrained")
    for method in dict.fromkeys([BASE, *(str(row["method"]) for row in usual)]):
        mine = [row for row in usual if row["method"] == method]
        points = sorted((100 * float(str(row["share"])), float(str(row["value"]))) for row in mine)
        look = _LOOKS.get(method) or {"color": next(colors), "linewidth": 1, "marker": "."}
        axes.plot(*zip(*points, strict=True), label=method, **look)
    axes.set_xlabel("measured latency that all were brought to, % of the full network's")
    axes.set_ylabel(f"{rows[0]['metric']} on test images, mean over {most} tasks")
    axes.set_title(f"{library}: ways of choosing modules")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    path = RESULTS / f"assembler_quality_{library}.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


if __name__ == "__main__":
    main()
