"""How long it takes to make a network: its parts, whole artifacts, and the whole command.

    python benchmarks/generation.py

Writes ``results/generation.csv``. The plan and link times are medians over random tasks and
budgets with the library open and its tables made, as a service would have them. So is an artifact:
chosen, linked, proven and written by ``nnfactory.build``, every other one under six budgets; a
thousand of both kinds of task are also timed together, two at a time. The command is timed as a
whole process, from an empty folder. Nothing is measured on a device.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from results_file import write_rows

from nnfactory import build
from nnfactory.api.request import size_options
from nnfactory.devices.profile import load_profile
from nnfactory.factory.assembler.sizes import SizeOption, assemble_any_size
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.library.store import library_folders, open_library
from nnfactory.factory.linker import link
from nnfactory.factory.schema import Budget, Task


@click.command()
@click.option("--networks", default=100, show_default=True, help="Networks per library.")
@click.option("--artifacts", default=500, show_default=True, help="Per library, of the thousand.")
@click.option("--commands", default=5, show_default=True, help="Runs of every command.")
def main(networks: int, artifacts: int, commands: int) -> None:
    """Time the generation of networks."""
    rows: list[dict[str, object]] = []
    for name in library_folders():
        library = open_library(name)
        options = size_options(library, load_profile("jetson"), None)
        samples = _generation_ms(library, options, networks)
        for phase, values in samples.items():
            rows.append(_row(name, phase, values))
        made = _artifact_ms(library, networks, at_once=1)
        rows.append(_row(name, "artifact", made))
    began = time.perf_counter()
    for name in library_folders():
        _artifact_ms(open_library(name), artifacts, at_once=2)
    total = (time.perf_counter() - began) * 1e3
    count = artifacts * len(library_folders())
    rows.append(_row("", f"{count} artifacts, one process, two at a time", [total]))
    for kind in ("det", "cls"):
        words = ["build", "--device", "jetson", "--task", kind]
        rows.append(_row("", " ".join(["nnfactory", *words]), _command_ms(words, commands)))
    rows.append(_row("", "nnfactory --help", _command_ms(["--help"], commands)))
    for row in rows:
        click.echo(
            f"{row['library']:8} {row['what']:44} median {row['median_ms']:8} ms  n={row['n']}"
        )
    click.echo(write_rows("generation", rows))


def _row(library: str, what: str, values: list[float]) -> dict[str, object]:
    low, median, high = np.percentile(values, [5, 50, 95])
    return {
        "library": library, "what": what, "median_ms": round(float(median), 2),
        "p5_ms": round(float(low), 2), "p95_ms": round(float(high), 2), "n": len(values),
    }  # fmt: skip


def _generation_ms(
    library: ModuleLibrary, options: list[SizeOption], n: int
) -> dict[str, list[float]]:
    """Milliseconds of plan, link and both, for random tasks and budgets."""
    rng = np.random.default_rng(0)
    smallest = options[0].table.predict({s.name: s.min_groups for s in library.slots}).value
    largest = options[0].table.predict({s.name: s.groups for s in library.slots}).value
    whole = assemble_any_size(options, library.task(), Budget())[1]
    samples: dict[str, list[float]] = {
        "plan": [], "link": [], "plan + link": [], "plan, six budgets": []
    }  # fmt: skip
    for number in range(n + 3):
        size = int(rng.integers(2, len(library.classes) + 1))
        index = sorted(rng.choice(len(library.classes), size, replace=False))
        task = Task(kind=library.kind, classes=tuple(library.classes[i] for i in index))
        budget = Budget(latency_ms=smallest + float(rng.uniform(0.1, 1)) * (largest - smallest))
        start = time.perf_counter()
        plan, _, _ = assemble_any_size(options, task, budget)
        middle = time.perf_counter()
        link(library, plan)
        end = time.perf_counter()
        share = float(rng.uniform(0.4, 1))
        many = Budget(
            latency_ms=budget.latency_ms, mparams=share * whole.mparams, mmacs=share * whole.mmacs,
            memory_mib=share * whole.memory_mib, file_mib=share * whole.file_mib, sparsity=0.1,
        )  # fmt: skip
        again = time.perf_counter()
        assemble_any_size(options, task, many)
        last = time.perf_counter()
        if number < 3:  # the first ones fill caches
            continue
        times = (middle - start, end - middle, end - start, last - again)
        for phase, seconds in zip(samples, times, strict=True):
            samples[phase].append(seconds * 1e3)
    return samples


def _artifact_ms(library: ModuleLibrary, n: int, *, at_once: int) -> list[float]:
    """Milliseconds of ``nnfactory.build`` in this process, for random tasks and budgets."""
    rng = np.random.default_rng(1)
    options = size_options(library, load_profile("jetson"), None)
    whole = assemble_any_size(options, library.task(), Budget())[1]
    assert whole.latency_ms is not None
    drawn = []
    for number in range(n):
        size = int(rng.integers(2, min(20, len(library.classes)) + 1))
        classes = [str(name) for name in rng.choice(library.classes, size, replace=False)]
        share = float(rng.uniform(0.6, 1))
        budget = Budget(latency_ms=share * whole.latency_ms.value)
        if number % 2:
            budget = replace(
                budget, mparams=share * whole.mparams, mmacs=share * whole.mmacs,
                memory_mib=share * whole.memory_mib, file_mib=share * whole.file_mib,
                sparsity=0.1,
            )  # fmt: skip
        drawn.append((classes, budget))

    def one(task: tuple[list[str], Budget]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            build(
                task=library.kind, device="jetson", classes=task[0], library=library.name,
                budget=task[1], out_dir=Path(folder) / "artifact",
            )  # fmt: skip
            return (time.perf_counter() - start) * 1e3

    with ThreadPoolExecutor(at_once) as workers:
        return list(workers.map(one, drawn))


def _command_ms(words: list[str], n: int) -> list[float]:
    """Milliseconds of a whole command, each time in an empty folder; one run warms the disk."""
    values = []
    for _ in range(n + 1):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            subprocess.run(
                [Path(sys.executable).with_name("nnfactory"), *words], cwd=folder, check=True,
                capture_output=True,
            )  # fmt: skip
            values.append((time.perf_counter() - start) * 1e3)
    return values[1:]


if __name__ == "__main__":
    main()
