"""What tells the best of several components: divergences, divergences of scaled logits, accuracy.

Components of trained networks at several input sizes, each cut to the same latency, are judged on a
few hundred training images as ``nnfactory disassemble`` does; how far each is behind the whole
network is measured on other training images, which nothing else has seen. Test images stay out of
it, since a rule is what is chosen here. ``results/component_judges.csv`` has a row per component.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from disassembly import FITTED, NETWORKS, READ, SHARES, TASKS, case_of, donor_of
from paired import behind
from reassembly import some_images
from results_file import data_option, need_data, write_rows
from sized_components import search_of, tables
from steady_latency import Beside

from nnfactory.api.component_case import Case
from nnfactory.api.request import silent
from nnfactory.factory.accuracy_measurement import images_at, task_images
from nnfactory.factory.datasets import Images
from nnfactory.factory.graph.network import Network
from nnfactory.factory.reuse.disassembly.component import INPUT_SIZE, values_of
from nnfactory.factory.reuse.disassembly.kinds import FACTORS, divergence, logits_of, tensors_of
from nnfactory.factory.reuse.own_images import turns

SIZES = (1, 7 / 8, 3 / 4, 5 / 8, 1 / 2)  # of the network's own
JUDGED, FRESH = 300, 2000  # images
Made = tuple[Case, str, Network]


@click.command()
@data_option
@click.option("--network", "names", multiple=True, default=("resnet20", "resnet8"),
              type=click.Choice(list(NETWORKS)))  # fmt: skip
@click.option("--task", "tasks", multiple=True, default=("0-2", "random", "animals"),
              type=click.Choice(list(TASKS)))  # fmt: skip
def main(data_dir: Path, names: tuple[str, ...], tasks: tuple[str, ...]) -> None:
    """Hold rules that choose components against images that nobody has seen."""
    need_data(data_dir)
    for name in names:
        for task in tasks:
            rows = list(_rows(data_dir, name, task))
            click.echo(write_rows("component_judges", rows, replace=("network", "task")))


def _rows(data_dir: Path, name: str, task: str) -> Iterator[dict[str, object]]:
    donor = donor_of(data_dir, name)
    case = case_of(data_dir, donor, NETWORKS[name], TASKS[task], judging=JUDGED)
    fresh = _fresh(data_dir, name, task, case.size)
    whole = case.anatomy.network
    wanted = logits_of(whole, tensors_of(case.judging))
    masked = logits_of(whole, tensors_of(fresh)).argmax(1) == fresh.labels
    clock = Beside(whole)
    for share in SHARES:
        for there, way, network in _made(case, share, clock):
            found = logits_of(network, tensors_of(there.judging))
            said = logits_of(network, tensors_of(images_at(fresh, there.size))).argmax(1)
            row = {
                "network": name, "task": task, "share": share, "side": there.size, "way": way,
                "divergence": round(divergence(wanted, found), 4),
                "scaled": round(min(divergence(wanted, f * found) for f in FACTORS), 4),
                "accuracy": round(float((found.argmax(1) == case.judging.labels).mean()), 4),
                "judging": len(found), "images": len(fresh),
                **behind(masked, said == fresh.labels),
            }  # fmt: skip
            click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
            yield row


def _fresh(data_dir: Path, name: str, task: str, side: int) -> Images:
    """Training images behind those that ``case_of`` takes."""
    images = some_images(data_dir / NETWORKS[name] / "train.npz", READ)
    mine = images_at(task_images(images, TASKS[task]), side)
    order = np.argsort(turns(mine.labels, 0), kind="stable")
    return mine.subset(order[FITTED + JUDGED :][:FRESH])


def _made(case: Case, share: float, clock: Beside) -> Iterator[Made]:
    """Components at every size, down to the one that keeps the latency uncut."""
    limit = share * clock.whole_ms
    for part in SIZES:
        there = case.at(round(part * case.size))
        if clock(there.anatomy.network) <= limit:
            yield there, INPUT_SIZE, there.anatomy.network
            return
        search = search_of(there, tables(there, clock), limit, clock)
        for way, losses in values_of(there.anatomy, there.kind, there.fitting).items():
            plan = search.plan(way, losses)
            if plan is not None:
                yield there, way, there.made(plan, silent).network


if __name__ == "__main__":
    main()
