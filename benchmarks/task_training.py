"""Networks that are trained for their task, beside the one that nnfactory builds without training.

    python benchmarks/task_training.py --data DIR [--library NAME] [--tasks N] [--share S]

Writes ``results/task_training.csv``, one row per method with the mean paired difference, generated
minus method, and ``results/task_training_tasks.csv``, one row per network; the latter after every
task, so that ``--resume`` can go on. For random tasks of 2 to 20 classes, at an equal measured
latency (a quarter of the full network's, unless told):

* generated: what nnfactory builds: modules chosen and linked, nothing trained.
* from scratch: the same network with fresh weights, trained on the task's images alone for 3,000
  steps of 64 images (classification) or 1,500 of 16 (detection).
* magnitude, taylor: the library's full network restricted to the task's classes, pruned by
  torch-pruning (DepGraph; groups of 8 channels, residual streams included) with that importance
  until it has the latency, then fine-tuned for 10 epochs on the task's images.

Everything is trained with augmentation, losses, optimizer and precision of the supernet, without
its teachers, one-to-many heads included. The learning rate is the better one of two, the ranking
of channels the better one of global and uniform, on validation images of the first task. All
networks are folded, answered, timed and tested alike, on test images. Seconds are CPU time until a
network is there, latencies measured on the way included, settings that were not taken excluded.
The latency table that nnfactory measures once per machine is not counted.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import click
import numpy as np
import torch
import torch_pruning as pruning
from claims import Claim, case_row, mean_interval
from equal_latency import (
    Case,
    Outcome,
    answers,
    at_latency,
    case_of,
    chosen,
    full_active,
    libraries_with_data,
    measure,
    outcome,
    plain_plan,
)
from results_file import data_option, need_data, read_rows, write_rows
from torch import Tensor, nn
from trainable import Trainable, trainable

from nnfactory.factory.accuracy_measurement import task_images
from nnfactory.factory.datasets import DataSet, Images
from nnfactory.factory.graph.costs import op_costs, parameter_count
from nnfactory.factory.graph.network import Network, tensor_shapes
from nnfactory.factory.library.library import ModuleLibrary
from nnfactory.factory.linker import link
from nnfactory.factory.schema import Plan
from nnfactory.factory.supernet.augment import resized
from nnfactory.factory.supernet.network import Classifier, Detector
from nnfactory.factory.supernet.objective import ClassificationObjective, DetectionObjective
from nnfactory.factory.supernet.recipe import Recipe, recipe_from_table
from nnfactory.factory.supernet.train import learning_rate

TASKS = 10
SHARE = 0.25
BATCH = {"cls": 64, "det": 16}
STEPS = {"cls": 3000, "det": 1500}  # from scratch
RATES = (1e-3, 4e-3)  # from scratch
EPOCHS = 10  # after pruning
TUNING_RATES = {"cls": (2e-3, 6e-3), "det": (1e-3, 3e-3)}  # after pruning
IMPORTANCE = {
    "magnitude": pruning.importance.GroupMagnitudeImportance,
    "taylor": pruning.importance.GroupTaylorImportance,
}
CHANNELS = 8  # pruned at a time
PRUNING_STEPS = 100  # from no channel to all of them
GRADIENT_BATCHES = 2  # behind the Taylor importance of a step
SLACK = 1.02
NETWORKS = "task_training_tasks"  # the file
Row = Mapping[str, object]


@dataclass(frozen=True)
class _Setting:
    """What is chosen on the validation images of the first task.

    Attributes:
        ranking: Which channels compete to be pruned: all of the network ("global"), or those of a
            layer, so that all lose the same share ("uniform"); "" where nothing is pruned.
        rate: Peak learning rate.
    """

    ranking: str
    rate: float

    def __str__(self) -> str:
        return f"{self.ranking} lr {self.rate:g}".strip()

    @classmethod
    def parse(cls, text: str) -> _Setting:
        """The setting that is written so."""
        ranking, _, rate = text.rpartition("lr ")
        return cls(ranking.strip(), float(rate))


def _settings(kind: str) -> dict[str, tuple[_Setting, ...]]:
    """The settings to choose from, by method."""
    pruned = tuple(
        _Setting(ranking, rate) for ranking in ("global", "uniform") for rate in TUNING_RATES[kind]
    )
    fresh = tuple(_Setting("", rate) for rate in RATES)
    return {"from scratch": fresh, **dict.fromkeys(IMPORTANCE, pruned)}


@click.command()
@data_option
@click.option("--library", "names", multiple=True, help="Only these libraries.")
@click.option("--tasks", default=TASKS, show_default=True, help="Tasks per library.")
@click.option("--share", default=SHARE, show_default=True, help="Of the full network's latency.")
@click.option("--steps", type=int, help="At most so many training steps, to try it out.")
@click.option("--resume", is_flag=True, help="Keep the tasks that are in the file of networks.")
def main(
    data_dir: Path, names: tuple[str, ...], tasks: int, share: float, steps: int | None,
    resume: bool,
) -> None:  # fmt: skip
    """Compare with networks that are trained for the task."""
    need_data(data_dir)
    for library, data in libraries_with_data(names, data_dir):
        done = [row for row in read_rows(NETWORKS) if row["library"] == library.name]
        claims, _ = against(
            library, data, tasks, share=share, most_steps=steps, done=done if resume else (),
            keep=lambda rows: write_rows(NETWORKS, rows, replace=("library",)),
        )  # fmt: skip
        write_rows("task_training", [claim.row() for claim in claims], replace=("library",))


def against(
    library: ModuleLibrary, data: DataSet, tasks: int, *, share: float = SHARE,
    most_steps: int | None = None, done: Sequence[Row] = (),
    keep: Callable[[Sequence[Row]], object] = lambda rows: None,
) -> tuple[list[Claim], list[Row]]:  # fmt: skip
    """The generated network against networks that are trained for the task.

    Args:
        library: Of any kind.
        data: All its splits.
        tasks: Number of tasks.
        share: Of the full network's latency that every network may take.
        most_steps: Stop every training after so many steps.
        done: Networks of whole tasks that were made before.
        keep: Called with all networks so far after every task.
    """
    rng = np.random.default_rng(4)
    settled = {
        str(row["what"]): _Setting.parse(str(row["setting"])) for row in done if row["setting"]
    }
    rows = list(done)
    for number in range(tasks):
        size = int(rng.integers(2, min(20, len(library.classes)) + 1))
        case = case_of(library, data, rng.choice(len(library.classes), size, replace=False), rng)
        if any(int(str(row["task"])) == number for row in done):
            continue
        for network in _networks(_Lesson.of(case, data, number, most_steps), share, settled):
            rows.append(network.row(case, number))
            click.echo("  ".join(f"{k} {v}" for k, v in rows[-1].items() if v != ""))
        keep(rows)
    values = {
        method: np.array([float(str(row["value"])) for row in _of(rows, method)])
        for method in ("generated", *_settings(library.kind))
    }
    claims = [_claim(library, "generated", values["generated"], _of(rows, "generated"))]
    for method in _settings(library.kind):
        ahead = values["generated"] - values[method]
        claims.append(_claim(library, f"generated minus {method}", ahead, _of(rows, method)))
    return claims, rows


def _of(rows: Sequence[Row], method: str) -> list[Row]:
    """The networks of a method, task by task."""
    return [row for row in rows if row["what"] == method]


def _claim(library: ModuleLibrary, what: str, values: np.ndarray, rows: Sequence[Row]) -> Claim:
    """A row about a method, with the mean time that it took."""
    seconds = float(np.mean([float(str(row["seconds"])) for row in rows]))
    return Claim("against", library.name, what, mean_interval(values.tolist()), seconds=seconds)


@dataclass(frozen=True)
class _Made:
    """One network of a task, and what making it took."""

    method: str
    share: float
    outcome: Outcome
    seconds: float
    steps: int = 0
    setting: _Setting | str = ""

    def row(self, case: Case, number: int) -> dict[str, object]:
        """As the CSV has it."""
        return case_row(
            "against", case, number, self.method, self.share, self.outcome, steps=self.steps,
            setting=str(self.setting), seconds=round(self.seconds, 2),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Lesson:
    """What a task's networks are trained on.

    Attributes:
        case: The task, with its test images.
        train: Training images of the task, labels counted within it.
        validation: Its validation images.
        recipe: Of the supernet; the batch is that of the task's trainings.
        seed: Of everything random.
        most_steps: Steps after which every training stops; None for no such limit.
    """

    case: Case
    train: Images
    validation: Images
    recipe: Recipe
    seed: int
    most_steps: int | None

    @classmethod
    def of(cls, case: Case, data: DataSet, seed: int, most_steps: int | None) -> _Lesson:
        """The images of a case."""
        recipe = recipe_from_table(case.library.card["training"]["recipe"])
        training = replace(recipe.training, batch=BATCH[case.library.kind])
        return cls(
            case, task_images(data.train, case.classes), task_images(data.validation, case.classes),
            replace(recipe, training=training), seed, most_steps,
        )  # fmt: skip

    @property
    def batch(self) -> int:
        """Images per step."""
        return min(self.recipe.training.batch, len(self.train))

    def steps(self, wanted: int) -> int:
        """Steps that are taken of those wanted."""
        return wanted if self.most_steps is None else min(wanted, self.most_steps)


@dataclass(frozen=True, eq=False)
class _Start:
    """A network that a training begins with.

    Attributes:
        network: Its layers.
        seconds: CPU time until here.
        steps: Of the training that follows.
    """

    network: Trainable
    seconds: float
    steps: int


def _networks(lesson: _Lesson, share: float, settled: dict[str, _Setting]) -> Iterator[_Made]:
    """The network of every method; ``settled`` keeps the settings that were chosen."""
    case = lesson.case
    whole = outcome(case, plain_plan(case, full_active(case.library)))
    yield _Made("full, masked logits", 1.0, whole, 0.0)
    target_ms, started = share * whole.latency_ms, time.process_time()
    plan, latency = at_latency(case, partial(chosen, case), target_ms)
    seconds = time.process_time() - started
    yield _Made("generated", share, outcome(case, plan, "own", latency), seconds)
    for method in _settings(case.library.kind):
        begin = (
            partial(_pruned, lesson, method, target_ms)
            if method in IMPORTANCE
            else partial(_from_scratch, lesson, plan)
        )
        yield _best(lesson, method, share, begin, settled)


def _best(
    lesson: _Lesson, method: str, share: float, begin: Callable[[str], _Start],
    settled: dict[str, _Setting],
) -> _Made:  # fmt: skip
    """The network of a method, at the setting that is best on validation images of a task.

    The task is the first one that the method is used for.

    Args:
        lesson: The task.
        method: Name of the method.
        share: Of the full network's latency.
        begin: What the training begins with, for a ranking.
        settled: The settings that were chosen, by method.
    """
    starts: dict[str, _Start] = {}
    tried: dict[_Setting, tuple[Network, float]] = {}
    every = _settings(lesson.case.library.kind)[method]
    for setting in (settled[method],) if method in settled else every:
        if setting.ranking not in starts:
            starts[setting.ranking] = begin(setting.ranking)
        start = starts[setting.ranking]
        layers, began = copy.deepcopy(start.network), time.process_time()
        _train_(layers, lesson, start.steps, setting.rate)
        tried[setting] = (layers.network(), start.seconds + time.process_time() - began)
    if method not in settled:
        held = replace(lesson.case, test=lesson.validation)
        found = {
            setting: _outcome(held, network).metric() for setting, (network, _) in tried.items()
        }
        settled[method] = max(found, key=lambda setting: found[setting])
        shown = ", ".join(f"{setting}: {value:.4f}" for setting, value in found.items())
        click.echo(f"{method}, on validation images: {shown}")
    setting = settled[method]
    network, seconds = tried[setting]
    steps = starts[setting.ranking].steps
    return _Made(method, share, _outcome(lesson.case, network), seconds, steps, setting)


def _outcome(case: Case, network: Network) -> Outcome:
    """Cost and answers of any network on the images of a case."""
    return Outcome(
        measure(case, network), parameter_count(network) / 1e6, _macs(network) / 1e6,
        answers(case, network),
    )  # fmt: skip


def _macs(network: Network) -> int:
    return sum(row.macs for row in op_costs(network, tensor_shapes(network)))


def _from_scratch(lesson: _Lesson, plan: Plan, ranking: str) -> _Start:
    """A network of the plan's shape with fresh weights; nothing is ranked."""
    case = lesson.case
    torch.manual_seed(lesson.seed)
    network = trainable(link(case.library, plan).cut, lesson.recipe.architecture)
    network.reset_([slot.branch for slot in case.library.blocks])
    return _Start(network, 0.0, lesson.steps(STEPS[case.library.kind]))


def _pruned(lesson: _Lesson, method: str, target_ms: float, ranking: str) -> _Start:
    """The full network of the task, pruned to a measured latency."""
    case, started = lesson.case, time.process_time()
    whole = link(case.library, plain_plan(case, full_active(case.library))).cut
    network = trainable(whole, lesson.recipe.architecture).eval()
    pruner = pruning.pruner.BasePruner(
        network, torch.rand(whole.inputs["images"]), importance=IMPORTANCE[method](),
        global_pruning=ranking == "global", pruning_ratio=1.0, iterative_steps=PRUNING_STEPS,
        ignored_layers=network.predictions, round_to=CHANNELS,
    )  # fmt: skip
    rng = np.random.default_rng([lesson.seed, 1])
    limit = _Limit(case, target_ms)
    for _ in range(PRUNING_STEPS):
        if method == "taylor":
            _gradients_(network, lesson, rng)
        for group in pruner.step(interactive=True):
            group.prune()
            if limit.is_kept(network.network()):
                steps = lesson.steps(EPOCHS * max(1, len(lesson.train) // lesson.batch))
                return _Start(network, time.process_time() - started, steps)
    raise click.ClickException(f"Pruning by {method} does not reach {target_ms:.3f} ms.")


class _Limit:
    """A latency that a network is shrunk to; it is measured only where it may be near."""

    def __init__(self, case: Case, target_ms: float) -> None:
        self.case, self.target_ms = case, target_ms
        self.next_macs = math.inf

    def is_kept(self, network: Network) -> bool:
        """Whether two measurements say that the network is at most 2 % above the target.

        The next one is due when half of the share that is too much is gone by multiply-adds.
        """
        macs = _macs(network)
        if macs > self.next_macs:
            return False
        for _ in range(2):  # one alone may be disturbed
            latency = measure(self.case, network)
            if latency > SLACK * self.target_ms:
                self.next_macs = macs * (1 + self.target_ms / latency) / 2
                return False
        return True


def _gradients_(network: Trainable, lesson: _Lesson, rng: np.random.Generator) -> None:
    """Gradients of the loss on a few batches of the task, without mosaics."""
    objective = _objective(network, lesson)
    network.zero_grad()
    for _ in range(GRADIENT_BATCHES):
        index = rng.choice(len(lesson.train), lesson.batch, replace=False)
        inputs, targets = objective.batch(lesson.train, index, rng, 1.0)
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective.full_loss(inputs, targets)
        loss.backward()


def _train_(network: Trainable, lesson: _Lesson, steps: int, rate: float) -> None:
    """Train a network on the task's images with AdamW, a warm-up and a cosine."""
    training = replace(lesson.recipe.training, lr=rate)
    objective, size = _objective(network, lesson), network.architecture.input_size
    optimizer = _optimizer(network, training.weight_decay)
    rng = np.random.default_rng([lesson.seed, 2])
    network.train()
    for step, index in enumerate(_order(len(lesson.train), lesson.batch, steps, rng)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, step, steps)
        inputs, targets = objective.batch(lesson.train, index, rng, step / steps)
        inputs, targets = _at_size(inputs, targets, size)
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective.full_loss(inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
    network.eval()


def _objective(network: Trainable, lesson: _Lesson) -> ClassificationObjective | DetectionObjective:
    """The loss of the full supernet, which asks nothing of a network that ours does not answer."""
    training = lesson.recipe.training
    if lesson.case.library.kind == "cls":
        return ClassificationObjective(cast(Classifier, network), training)
    return DetectionObjective(cast(Detector, network), training)


def _optimizer(network: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; biases and normalization are not decayed."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}
    ]  # fmt: skip
    return torch.optim.AdamW(groups)


def _order(count: int, batch: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The images of every step; an epoch drops the images that fill no batch."""
    per_epoch = max(1, count // batch)
    for step in range(steps):
        position = step % per_epoch
        if not position:
            order = rng.permutation(count)
        yield order[position * batch : (position + 1) * batch]


def _at_size(inputs: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Images and, for detection, their boxes (B, M, 5) at another input size."""
    if targets.ndim == 3:
        scale = torch.tensor([1.0] + [size / inputs.shape[2]] * 4)
        targets = torch.where(targets[..., :1] < 0, targets, targets * scale)
    inputs = resized(inputs, size)
    return inputs.contiguous(memory_format=torch.channels_last), targets


if __name__ == "__main__":
    main()
