"""How often the interval of an estimated accuracy holds what is measured.

    python benchmarks/estimate_coverage.py --data DIR [--library NAME] [--networks N]

Writes ``results/estimate_coverage.csv``. Random tasks and shares of the latency, at every input
size, none of them used for the fit; each network is built as ``nnfactory build`` does and measured
on validation images, which the interval is about, and on test images, which an app is closer to.
Where the library doubts a smaller input, its estimates are lowered and its intervals longer for it.
Coverage has its 95 % Wilson interval; widths are means, in accuracy.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from equal_latency import libraries_with_data
from results_file import data_option, need_data, write_rows

from nnfactory.factory.accuracy_measurement import images_at
from nnfactory.factory.assembler.problem import problem_for
from nnfactory.factory.datasets import DataSet
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.metrics import proportion_interval
from nnfactory.factory.supernet.measurements import (
    optimized_plan,
    plan_accuracy,
    proxy_table,
    random_task,
)

SEED = 101  # of tasks and shares; publishing uses small numbers


@click.command()
@data_option
@click.option("--library", "names", multiple=True, help="Only these libraries.")
@click.option("--networks", default=60, show_default=True, help="Networks per input size.")
def main(data_dir: Path, names: tuple[str, ...], networks: int) -> None:
    """Measure the coverage of the intervals."""
    need_data(data_dir)
    rows = []
    for library, data in libraries_with_data(names, data_dir):
        for size in library.input_sizes:
            rows += _rows(library.at(size), data, networks)
    click.echo(write_rows("estimate_coverage", rows, replace=("library",)))


def _rows(library: ModuleLibrary, data: DataSet, networks: int) -> list[dict[str, object]]:
    """Coverage at one input size, on validation and on test images."""
    size = library.input_size
    splits = {
        "validation": images_at(data.validation, size), "test": images_at(data.test, size)
    }  # fmt: skip
    table, rng = proxy_table(library), np.random.default_rng([SEED, size])
    covered: dict[str, list[bool]] = {name: [] for name in splits}
    errors: dict[str, list[float]] = {name: [] for name in splits}
    widths = []
    for _ in range(networks):
        task = random_task(library, rng)
        plan = optimized_plan(library, task, float(rng.random()))
        plan = replace(plan, is_modulated=library.modulation is not None)
        interval = problem_for(library, task, table).accuracy(plan.counts)
        widths.append(interval.high - interval.low)
        for name, images in splits.items():
            found = plan_accuracy(library, plan, images, data.train).value
            covered[name].append(interval.low <= found <= interval.high)
            errors[name].append(found - interval.value)
    rows: list[dict[str, object]] = []
    for name in splits:
        share = proportion_interval(sum(covered[name]), networks)
        rows.append(
            {
                "library": library.name, "input_size": size, "images": name,
                "nominal": interval.level, "coverage": round(share.value, 3),
                "low": round(share.low, 3), "high": round(share.high, 3), "networks": networks,
                "mean_width": round(float(np.mean(widths)), 3),
                "mean_error": round(float(np.mean(errors[name])), 4),
            }
        )  # fmt: skip
        click.echo("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    return rows


if __name__ == "__main__":
    main()
