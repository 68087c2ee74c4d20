"""What there is: devices and module libraries; and training and publishing a library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..factory.errors import DataError, NNFactoryError
from ..factory.schema import DeviceProfile, Estimate, TrainingStatus
from .request import Report, latency_table, need_torch, silent

if TYPE_CHECKING:
    from ..factory.datasets import DataSet
    from ..factory.library.library import ModuleLibrary
    from ..factory.supernet.recipe import Recipe


def devices() -> list[DeviceProfile]:
    """Every known device."""
    from ..devices.profile import list_profiles

    return list_profiles()


def device(name: str) -> DeviceProfile:
    """One device by name or alias."""
    from ..devices.profile import load_profile

    return load_profile(name)


def modules() -> dict[str, ModuleLibrary | NNFactoryError]:
    """Every installed module library by name, checked; or what is wrong with it."""
    from ..factory.library.store import library_folders, open_library

    found: dict[str, ModuleLibrary | NNFactoryError] = {}
    for name, folder in library_folders().items():
        try:
            found[name] = open_library(folder)
        except NNFactoryError as error:
            found[name] = error
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryView:
    """What ``modules show`` prints.

    Attributes:
        card: ``library.toml``.
        slots: Per block its name, modules, channels' parameters and multiply-adds, and whether it
            can be skipped.
        empty: Estimate of the smallest plan with all classes.
        full: Estimate of the plan with every module.
        empty_share: Latency of the smallest over that of the full plan, in [0, 1].
        is_measured: Whether the latencies come from a measured table.
        device: Device of the latencies.
        superclasses: Names that stand for several classes, with how many.
    """

    card: dict[str, Any]
    slots: tuple[dict[str, Any], ...]
    empty: Estimate
    full: Estimate
    empty_share: float
    is_measured: bool
    device: str
    superclasses: dict[str, int]


def module_library(name: str, *, device: str = "host", report: Report = silent) -> LibraryView:
    """A library with the latency of its smallest and its full network on a device."""
    from ..devices.profile import load_profile
    from ..factory.assembler.footprint import empty_counts, full_counts
    from ..factory.assembler.problem import estimate, problem_for
    from ..factory.library.store import open_library

    source, profile = open_library(name), load_profile(device)
    table = latency_table(source, profile, report=report)
    problem = problem_for(source, source.task(), table)
    empty = estimate(problem, empty_counts(source), 50)
    full = estimate(problem, full_counts(source), 50)
    assert empty.latency_ms is not None
    assert full.latency_ms is not None
    return LibraryView(
        card=dict(source.card),
        slots=tuple(
            {
                "name": slot.name, "groups": slot.groups, "mparams": slot.modules[0].mparams,
                "mmacs": slot.modules[0].mmacs, "skippable": slot.min_groups == 0,
            }
            for slot in source.slots
        ),
        empty=empty, full=full, empty_share=empty.latency_ms.value / full.latency_ms.value,
        is_measured=table.is_measured, device=profile.name,
        superclasses={name: len(members) for name, members in source.superclasses.items()},
    )  # fmt: skip


def recipes() -> list[str]:
    """Names of the shipped training recipes."""
    from ..factory.supernet.recipe import shipped_recipes

    return shipped_recipes()


def train(
    recipe: str,
    *,
    data_dir: Path,
    run_dir: Path,
    resume: bool = False,
    init: str | None = None,
    compute: str = "cpu",
    skip_broken: bool = False,
    note: Callable[[str], None] = lambda text: None,
    report: Callable[[TrainingStatus], None] = lambda status: None,
) -> Path:
    """Train the supernet of a recipe; the folder that holds its checkpoint.

    Args:
        recipe: Name of a shipped recipe, or path of one.
        data_dir: The recipe's data set, or a folder that holds it under the recipe's name for it.
        run_dir: Where checkpoints and the log go.
        resume: Continue the run in ``run_dir``.
        init: Name or folder of a published library to start from; by default the recipe's, if any.
        compute: "cpu" or "cuda".
        skip_broken: Leave out images and boxes with errors instead of refusing to start; they
            are listed in ``left_out.txt`` in ``run_dir``.
        note: Called before training with lines for people: what is left out, what ``init`` gave.
        report: Called after every step.

    Raises:
        MissingExtraError: torch is not installed.
        DataError: The data set is not there, or has errors that are not skipped.
    """
    need_torch("Training")
    from ..factory.library.store import open_library
    from ..factory.supernet.recipe import load_recipe
    from ..factory.supernet.train import train as train_supernet

    loaded = load_recipe(recipe)
    name = init or (loaded.init if not resume else "")
    start = open_library(name) if name else None
    if start is not None:
        loaded = replace(loaded, init=f"{start.name} {start.id}")
    data = _dataset(loaded, data_dir, splits=("train", "validation"), skip_broken=skip_broken)
    if resume or not (run_dir / "checkpoint.safetensors").exists():
        _list_left_out(data, run_dir, note)
    train_supernet(
        loaded, data, run_dir, resume=resume, compute=compute, note=note, report=report,
        init=None if start is None else start.network.weights,
        teacher_dir=_teacher_folder(loaded, data_dir),
    )  # fmt: skip
    return run_dir


def _teacher_folder(recipe: Recipe, data_dir: Path) -> Path | None:
    """Where the files of the recipe's teacher lie: in the data folder, or beside it.

    Raises:
        DataError: They are not there.
    """
    if recipe.teacher is None:
        return None
    for folder in (data_dir / recipe.teacher.folder, data_dir.parent / recipe.teacher.folder):
        if folder.is_dir():
            return folder
    raise DataError(
        f"The recipe's teacher needs the folder {recipe.teacher.folder!r} in or beside {data_dir}.",
        hints=["take [teacher] out of a copy of the recipe to train without"],
    )


def publish(
    run_dir: Path,
    *,
    data_dir: Path,
    out_dir: Path | None = None,
    compute: str = "",
    overwrite: bool = False,
    skip_broken: bool = False,
    report: Report = silent,
) -> Path:
    """Measure a trained supernet and write it as a module library; the library's folder.

    Args:
        run_dir: Where ``modules train`` left its checkpoint.
        data_dir: As in :func:`train`.
        out_dir: The library's folder; by default one of the user's own, by the recipe's name.
        compute: What trained it, in words, for ``library.toml``.
        overwrite: Replace a library that is there.
        skip_broken: As in :func:`train`; a run that was trained with it is published with it.
        report: Called with (phase, done, total).

    Raises:
        MissingExtraError: torch is not installed.
        DataError: There is no checkpoint, or the data set is not there, or has errors that are
            not skipped.
    """
    need_torch("Publishing")
    from ..factory.library.store import user_libraries
    from ..factory.library.writer import check_library_place
    from ..factory.supernet.checkpoint import load_checkpoint, read_recipe
    from ..factory.supernet.network import supernet_from_architecture
    from ..factory.supernet.publish import publish as publish_supernet

    recipe = read_recipe(run_dir)
    folder = out_dir or user_libraries() / recipe.name
    check_library_place(folder, overwrite=overwrite)
    network = supernet_from_architecture(recipe.architecture)
    progress = load_checkpoint(run_dir / "checkpoint.safetensors", network)
    data = _dataset(recipe, data_dir, skip_broken=skip_broken, report=report)
    publish_supernet(
        recipe, network, data, folder, compute=compute, train_seconds=progress.seconds,
        overwrite=overwrite, report=report,
    )  # fmt: skip
    _write_page(run_dir, folder)
    return folder


def _write_page(run_dir: Path, folder: Path) -> None:
    """Beside the library's files: the page for people, and a picture of the training."""
    from ..factory.library.card import CURVES, PAGE, card_markdown
    from ..factory.library.store import open_library
    from ..factory.supernet.curves import draw_curves

    library = open_library(folder)
    log = run_dir / "log.jsonl"
    if log.is_file():
        draw_curves(log, folder / CURVES, metric=library.card["metric"]["name"])
    (folder / PAGE).write_text(card_markdown(library), encoding="utf-8")


def _dataset(
    recipe: Recipe,
    data_dir: Path,
    *,
    splits: tuple[str, ...] = (),
    skip_broken: bool,
    report: Report = silent,
) -> DataSet:
    """The images of a recipe, read as its ``[data]`` says."""
    from ..devices.latency_table import cache_folder
    from ..factory.datasets import load_dataset, source_from_recipe

    shape = recipe.architecture
    source = source_from_recipe(
        recipe.data, classes=shape.classes, input_size=shape.input_size, skip_broken=skip_broken,
        cache_dir=cache_folder(),
    )  # fmt: skip
    folder = _data_folder(data_dir, recipe.data["folder"])
    return load_dataset(shape.kind, folder, splits=splits, source=source, report=report)


def _list_left_out(data: DataSet, run_dir: Path, note: Callable[[str], None]) -> None:
    """Write what is left out to ``left_out.txt`` and say how much it is; nothing if it is none."""
    if not data.left_out:
        return
    from ..factory.datasets.problems import left_out_lines, left_out_text

    place = run_dir / "left_out.txt"
    run_dir.mkdir(parents=True, exist_ok=True)
    place.write_text(left_out_lines(data.left_out), encoding="utf-8")
    note(f"{left_out_text(data.left_out)} left out because of errors, listed in {place}")


def _data_folder(data_dir: Path, name: str) -> Path:
    """The data set itself, whether ``data_dir`` is it or holds it."""
    inside = data_dir / name
    if inside.is_dir():
        return inside
    if not data_dir.is_dir():
        raise DataError(f"There is no data folder {data_dir}.", hints=["pass it as --data DIR"])
    return data_dir
