"""Components as teachers: what a small one learns from the whole network, or from a larger one.

    python benchmarks/component_teachers.py --data DIR [--network NAME] [--task TASK]

Writes ``results/component_teachers.csv``. The student is the component at a quarter of the whole
network's latency, as ``disassemble`` makes it (fitted in closed form) and with fresh weights; it is
trained for some passes over training images of the task, labels and views being the same:

* untrained: as it is;
* labels: towards the labels alone;
* whole: towards the answers of the whole network with its logits masked to the task, which is what
  ``disassemble --finish`` does; also for the component at half of the latency;
* labels and whole: towards the mean of both;
* component: towards those of the component at half of the latency, as in Model Disassembling and
  Assembling (arXiv:2203.13453), where components teach.

``accuracy`` is on test images; ``behind`` and its interval (95 %, bootstrap, paired over images)
say how far it is behind the masked network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from disassembly import NETWORKS, TASKS, case_of, donor_of, latency_ms
from paired import behind
from results_file import data_option, need_data, write_rows
from sized_components import cut, search_of, tables
from torch import Tensor

from nnfactory.api.component_case import Case
from nnfactory.factory.graph.network import Array, Network
from nnfactory.factory.reuse.disassembly.component import Component, values_of
from nnfactory.factory.reuse.disassembly.kinds import logits_of, tensors_of
from nnfactory.factory.reuse.training.component_finish import TEMPERATURE, train_
from nnfactory.factory.reuse.training.torch_graph import TorchGraph

EPOCHS, IMAGES, JUDGED = 15, 4000, 300  # passes; images to learn from, images that judge
CERTAIN = 4.0  # logit of a label that is right
STUDENT, TEACHER = 0.25, 0.5  # shares of the latency
Answers = Callable[[Array, Tensor], dict[str, Tensor]]


@click.command()
@data_option
@click.option("--network", "names", multiple=True, default=["resnet20"])
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)),
              default=["0-2", "random"])  # fmt: skip
def main(data_dir: Path, names: tuple[str, ...], tasks: tuple[str, ...]) -> None:
    """Compare teachers of small components."""
    need_data(data_dir)
    for name in names:
        for task in tasks:
            rows = []
            for row in _taught(data_dir, name, task):
                rows.append(row)
                click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
            click.echo(write_rows("component_teachers", rows, replace=("network", "task")))


def _taught(data_dir: Path, name: str, task: str) -> Iterator[dict[str, object]]:
    donor = donor_of(data_dir, name)
    case = case_of(
        data_dir, donor, NETWORKS[name], TASKS[task], fitting=IMAGES, judging=JUDGED
    )  # layers are fitted to the first thousand
    few = replace(case, images=replace(case.images, fitted=case.images.fitted[:1000]))
    test, labels = tensors_of(case.measuring), case.measuring.labels
    whole = case.anatomy.network
    masked = logits_of(whole, test).argmax(1) == labels
    student, half = _components(few, STUDENT), _components(few, TEACHER)
    fresh = _fresh(student.network)
    learning = case.images.mixed(case.size)

    def row(start: str, teacher: str, network: Network, seconds: float) -> dict[str, object]:
        right = logits_of(network, test).argmax(1) == labels
        return {
            "network": name, "task": task, "start": start, "teacher": teacher,
            "accuracy": round(float(right.mean()), 4), "images": len(right),
            **behind(masked, right),
            "latency": round(latency_ms(network) / latency_ms(whole), 3),
            "learned_from": len(learning), "seconds": round(seconds, 1),
        }  # fmt: skip

    yield row("fitted", "untrained", student.network, 0.0)
    yield row("fitted", "untrained, half of the latency", half.network, 0.0)
    teachers: dict[str, Answers] = {
        "labels": _labels(student.network, learning.labels),
        "whole": _answers(whole), "component": _answers(half.network),
    }  # fmt: skip
    teachers["labels and whole"] = _mean(teachers["labels"], teachers["whole"])
    for start, network in (("fitted", student.network), ("fresh", fresh)):
        for teacher, answers in teachers.items():
            began, graph = time.perf_counter(), TorchGraph(network)
            train_(graph, answers, case.kind, learning, epochs=EPOCHS)
            yield row(start, teacher, graph.trained(), time.perf_counter() - began)
    began, graph = time.perf_counter(), TorchGraph(half.network)
    train_(graph, teachers["whole"], case.kind, learning, epochs=EPOCHS)
    seconds = time.perf_counter() - began
    yield row("fitted", "whole, half of the latency", graph.trained(), seconds)


def _components(case: Case, share: float) -> Component:
    """The best of the components at a share of the latency."""
    limit = share * latency_ms(case.anatomy.network)
    values = values_of(case.anatomy, case.kind, case.fitting)
    best = cut(case, search_of(case, tables(case, latency_ms), limit, latency_ms), values)
    assert best is not None  # these shares can be kept
    return best


def _fresh(network: Network) -> Network:
    """The same layers with weights that were never trained (He et al., arXiv:1502.01852)."""
    rng, weights = np.random.default_rng(0), dict(network.weights)
    for node in network.nodes:
        if node.op_type in ("Conv", "Gemm"):
            shape = weights[node.input[1]].shape
            scale = np.sqrt(2 / np.prod(shape[1:]))
            weights[node.input[1]] = (scale * rng.normal(size=shape)).astype(np.float32)
            for name in node.input[2:]:
                weights[name] = np.zeros_like(weights[name])
    return replace(network, weights=weights)


def _answers(teacher: Network) -> Answers:
    graph = TorchGraph(teacher)
    return lambda _, seen: graph.outputs(seen)


def _labels(network: Network, labels: Array) -> Answers:
    """Logits that are high for the label."""
    ((out, shape),) = network.outputs.items()
    table = CERTAIN * torch.eye(shape[1])[torch.from_numpy(labels)]
    return lambda mine, _: {out: table[torch.from_numpy(mine)]}


def _mean(first: Answers, second: Answers) -> Answers:
    """Logits of the mean of two answers' probabilities, softened as the loss softens them."""

    def answers(mine: Array, seen: Tensor) -> dict[str, Tensor]:
        one, other = first(mine, seen), second(mine, seen)
        soft = {n: [torch.softmax(each[n] / TEMPERATURE, 1) for each in (one, other)] for n in one}
        return {n: TEMPERATURE * torch.log(torch.stack(rows).mean(0)) for n, rows in soft.items()}

    return answers


if __name__ == "__main__":
    main()
