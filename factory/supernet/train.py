"""The training loop: full network first, then random narrower ones, every step."""

from __future__ import annotations

import copy
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..datasets import DataSet, Images
from ..errors import DataError, SpecError
from ..graph.network import Array
from ..sampling import sample_size, sample_widths
from ..schema import TrainingStatus
from .checkpoint import Progress, load_checkpoint, save_checkpoint
from .distributed import Group, process_group
from .evaluate import evaluate_network
from .network import Classifier, Detector, supernet_from_architecture
from .objective import Objective, objective_for
from .recipe import Conditioning, Recipe, Training, recipe_from_table, table_from_recipe
from .teacher import TeacherAnswers, teacher_answers

CHECKPOINT_SECONDS = 180.0
MIN_EVERY = 4  # every so many steps the smallest network is trained as well


def train(
    recipe: Recipe,
    data: DataSet,
    run_dir: Path,
    *,
    resume: bool = False,
    init: Mapping[str, Array] | None = None,
    teacher_dir: Path | None = None,
    compute: str = "cpu",
    note: Callable[[str], None] = lambda text: None,
    report: Callable[[TrainingStatus], None] = lambda status: None,
) -> Classifier | Detector:
    """Train the supernet of a recipe; a checkpoint is written every few minutes and at the end.

    The result is the running average of the weights.

    The order of the images, the augmentation and the sampled widths of a step depend on the seed
    and the step alone, so an interrupted run continues as if it had not been interrupted.

    Under ``torchrun`` every process takes its share of each batch, gradients are averaged, and
    the first process writes the files; batch normalization stays within a process.

    Args:
        recipe: What to train.
        data: Its images.
        run_dir: Holds ``checkpoint.safetensors``, ``recipe.json`` and ``log.jsonl``.
        resume: Continue from the checkpoint in ``run_dir``.
        init: Starting weights of a published library, named as in the network. Whatever has
            another shape there, or is not there, starts fresh: another library's backbone helps.
        teacher_dir: Holds the files of the recipe's teacher, if it has one.
        compute: "cpu" or "cuda".
        note: Called with a line for people about what ``init`` gave.
        report: Called after every step.

    Raises:
        SpecError: ``run_dir`` holds a run already and ``resume`` is false, or no CUDA device.
        DataError: The checkpoint does not belong to the recipe.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written.
    """
    if compute == "cuda" and not torch.cuda.is_available():
        raise SpecError("--compute cuda: torch sees no CUDA device here.", hints=["--compute cpu"])
    if resume and init is not None:
        raise SpecError(
            "A run goes on from its own weights: --resume and --init exclude each other."
        )
    with process_group(compute) as group:
        torch.manual_seed(recipe.training.seed)
        network = supernet_from_architecture(recipe.architecture)
        network.to(compute).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if init is not None:
            note(_load_init(network, init))
        optimizer = _optimizer(network, recipe.training)
        average = copy.deepcopy(network).requires_grad_(False)
        if group.is_first:
            progress = _start(recipe, run_dir, resume, network, average, optimizer)
        group.wait()
        if not group.is_first:
            progress = Progress(step=0, seconds=0.0, recipe=table_from_recipe(recipe))
            if resume:
                path = run_dir / "checkpoint.safetensors"
                progress = load_checkpoint(path, average, network, optimizer)
        start = None if resume else average
        answers = _answers(recipe, data, run_dir, teacher_dir, start, group, report)
        run = _Run(recipe=recipe, data=data, run_dir=run_dir, compute=compute, group=group)
        loop = _Loop(run, network, average, optimizer, answers, report)
        loop.run(progress)
        group.wait()
    return average


def _answers(
    recipe: Recipe,
    data: DataSet,
    run_dir: Path,
    teacher_dir: Path | None,
    start: torch.nn.Module | None,
    group: Group,
    report: Callable[[TrainingStatus], None],
) -> TeacherAnswers | None:
    """What the recipe's teacher says, if it has one."""
    if recipe.teacher is None:
        return None
    if teacher_dir is None:
        raise DataError("The recipe has a teacher: pass the folder of its files.")

    def status(done: int, total: int) -> None:
        report(
            TrainingStatus(
                step=done, steps=total, loss=math.nan, metric=None, seconds=0.0, phase="teacher"
            )
        )

    own = None if start is None else copy.deepcopy(start).cpu().eval()
    return teacher_answers(
        recipe.teacher, teacher_dir, data.train, recipe.architecture.classes, run_dir,
        seed=recipe.training.seed, start=own, group=group, report=status,
    )  # fmt: skip


def _load_init(network: Classifier | Detector, weights: Mapping[str, Array]) -> str:
    """Start from published weights; the stem gets its division by the standard deviation back.

    Returns:
        How much was taken, for people.

    Raises:
        DataError: No block of the library fits: it has another architecture.
    """
    own = network.state_dict()
    loaded = {
        name: torch.from_numpy(array.copy())
        for name, array in weights.items()
        if name in own and own[name].shape == array.shape
    }
    if not any(name.startswith("stages.") for name in loaded):
        raise DataError("The library has another architecture: none of its blocks fits.")
    if "stem.conv.weight" in loaded:
        std = torch.tensor(network.architecture.std).view(1, 3, 1, 1)
        loaded["stem.conv.weight"] = loaded["stem.conv.weight"] * std
    network.load_state_dict(loaded, strict=False)
    fresh = [name for name, _ in network.named_parameters() if name not in loaded]
    taken = len(list(network.parameters())) - len(fresh)
    parts = sorted({name.split(".")[0] for name in fresh})
    return f"starting from {taken} tensors of the library" + (
        f"; {len(fresh)} start fresh, in {', '.join(parts)}" if fresh else ""
    )


def _start(
    recipe: Recipe,
    run_dir: Path,
    resume: bool,
    network: torch.nn.Module,
    average: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Where to begin: at the checkpoint, or at step 0 of a new run."""
    path = run_dir / "checkpoint.safetensors"
    table = json.loads(json.dumps(table_from_recipe(recipe)))
    if not path.exists():
        if resume:
            raise SpecError(f"There is no checkpoint in {run_dir} to resume from.")
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "recipe.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
        return Progress(step=0, seconds=0.0, recipe=table)
    if not resume:
        raise SpecError(f"{run_dir} holds a training run.", hints=["--resume continues it"])
    progress = load_checkpoint(path, average, network, optimizer)
    if not _same_training(recipe_from_table(progress.recipe), recipe_from_table(table)):
        raise DataError(f"The run in {run_dir} was started with another recipe.")
    return progress


def _same_training(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes go on alike; the start and what only publishing reads may differ."""
    first, second = (replace(r, init="any", conditioning=Conditioning()) for r in (one, other))
    return first == second


def _optimizer(network: torch.nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW; biases and normalization are not decayed."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.lr)


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to 1 % of the peak."""
    warm = max(1, round(training.warmup * steps))
    if step < warm:
        return training.lr * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return training.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


class _DeferredInterrupt:
    """Ctrl-C takes effect where :meth:`check` is called, never inside a step.

    Only the main thread can be interrupted so; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: Any = None

    def __enter__(self) -> _DeferredInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _remember(self, *_: object) -> None:
        self._asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self._asked:
            raise KeyboardInterrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """What stays the same during a run."""

    recipe: Recipe
    data: DataSet
    run_dir: Path
    compute: str
    group: Group


class _Loop:
    """One run of the training loop; holds what every step needs."""

    def __init__(
        self,
        run: _Run,
        network: Classifier | Detector,
        average: Classifier | Detector,
        optimizer: torch.optim.Optimizer,
        answers: TeacherAnswers | None,
        report: Callable[[TrainingStatus], None],
    ) -> None:
        self.recipe, self.data, self.run_dir = run.recipe, run.data, run.run_dir
        self.compute, self.group = run.compute, run.group
        self.network, self.optimizer, self.average = network, optimizer, average
        self.report = report
        recipe, data = run.recipe, run.data
        self.objective: Objective = objective_for(network, recipe.training, answers)
        self.per_epoch = len(data.train) // recipe.training.batch
        if not self.per_epoch:
            raise DataError(f"{len(data.train)} training images are less than one batch.")
        self.steps = self.per_epoch * recipe.training.epochs
        self.metric: tuple[float, float] | None = None
        self.loss = math.nan

    def run(self, progress: Progress) -> None:
        """Step until the end; save now and then, at the end, and on Ctrl-C."""
        started, saved = time.monotonic() - progress.seconds, time.monotonic()
        step = progress.step

        def save() -> None:
            if not self.group.is_first:
                return
            now = Progress(step=step, seconds=time.monotonic() - started, recipe=progress.recipe)
            path = self.run_dir / "checkpoint.safetensors"
            save_checkpoint(path, self.average, self.network, self.optimizer, now)

        between_steps = True
        try:
            with _DeferredInterrupt() as interrupt:
                while step < self.steps:
                    between_steps = False
                    self._step(step)
                    step, between_steps = step + 1, True
                    if step % self.per_epoch == 0:
                        self._end_epoch(step, time.monotonic() - started)
                    if time.monotonic() - saved > CHECKPOINT_SECONDS:
                        save()
                        saved = time.monotonic()
                    self.report(self._status(step, time.monotonic() - started))
                    interrupt.check()
        finally:
            if between_steps:  # a step that failed half-way must not reach the checkpoint
                save()

    def _status(self, step: int, seconds: float) -> TrainingStatus:
        return TrainingStatus(
            step=step, steps=self.steps, loss=self.loss, metric=self.metric, seconds=seconds
        )

    def _end_epoch(self, step: int, seconds: float) -> None:
        """Validate after one epoch in so many that a run has about fourteen validations."""
        due = step // self.per_epoch % max(1, self.recipe.training.epochs // 14) == 0
        if due and self.group.is_first:
            self._validate(step, seconds)

    def _step(self, step: int) -> None:
        training = self.recipe.training
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(training, step, self.steps)
        rng = np.random.default_rng([training.seed, step])  # the same in every process
        mine = np.random.default_rng([training.seed, step, self.group.rank])
        index = self._index(step)[self.group.rank :: self.group.size]
        inputs, targets = self.objective.batch(self.data.train, index, mine, step / self.steps)
        inputs = inputs.to(self.compute).contiguous(memory_format=torch.channels_last)
        targets = targets.to(self.compute)
        full, empty = self.network.full, self.network.empty
        widths = [sample_widths(full, empty, rng) for _ in range(training.narrow)]
        if step % MIN_EVERY == 0:
            widths.append(empty)
        self.optimizer.zero_grad()
        with torch.autocast(self.compute, torch.bfloat16):
            loss = self.objective.full_loss(inputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        for narrow in widths:
            with torch.autocast(self.compute, torch.bfloat16):
                size = sample_size(self.network.architecture.input_sizes, rng)
                extra = self.objective.narrow_loss(inputs, targets, narrow, size)
            extra.backward()  # type: ignore[no-untyped-call]
        self.group.average_gradients(self.network)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimizer.step()
        self._update_average(step)
        value = float(loss.detach())
        self.loss = value if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * value

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        """Move the average towards the weights; faster in the beginning."""
        rate = 1 - min(self.recipe.training.average, (1 + step) / (10 + step))
        mine = self.average.state_dict()
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                mine[name].lerp_(value, rate)

    def _index(self, step: int) -> np.ndarray:
        """The images of a step: a slice of the epoch's permutation."""
        epoch, position = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.recipe.training.seed, 1 << 20, epoch]).permutation(
            len(self.data.train)
        )
        batch = self.recipe.training.batch
        return order[position * batch : (position + 1) * batch]

    def _validate(self, step: int, seconds: float) -> None:
        """Metric of the averaged weights on validation images, at full and at half width."""
        images: Images = self.data.validation
        half = tuple(
            max(least, (most + 1) // 2)
            for most, least in zip(self.network.full, self.network.empty, strict=True)
        )
        self.metric = (
            evaluate_network(self.average, images, None, self.compute),
            evaluate_network(self.average, images, half, self.compute),
        )
        row = {
            "step": step,
            "seconds": round(seconds),
            "loss": round(self.loss, 4),
            "full": round(self.metric[0], 4),
            "half": round(self.metric[1], 4),
        }
        with (self.run_dir / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
