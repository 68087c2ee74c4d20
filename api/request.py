"""A request opened: device, library, latency tables and task, example images included."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..factory.errors import MissingExtraError, UsageError
from ..factory.schema import Accuracy, DeviceProfile, LatencyTable, Plan, Task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..factory.assembler.sizes import SizeOption
    from ..factory.datasets.examples import Examples
    from ..factory.library.library import ModuleLibrary
    from ..factory.measured_choice import OwnImages

Report = Callable[[str, int, int], None]


def silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def need_torch(purpose: str) -> None:
    """Raise unless torch is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError.of("train", purpose=purpose)


@dataclass(slots=True)
class Stopwatch:
    """Seconds per phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time that the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be built, and everything that is needed for it.

    Attributes:
        profile: The device.
        source: The library; of the examples' classes, where there are examples.
        options: It at every input size, with latency tables.
        task: What the network must do.
        examples: Images of classes that the library does not know, or None.
        images: Labelled images of the task's classes, or None.
    """

    profile: DeviceProfile
    source: ModuleLibrary
    options: list[SizeOption]
    task: Task
    examples: Examples | None = None
    images: OwnImages | None = None

    def fitted(self, plan: Plan) -> tuple[ModuleLibrary, tuple[Accuracy, ...]]:
        """The library to link a plan from, and what is known of the network's accuracy then."""
        if self.examples is None:
            return self.source, ()
        from ..factory.new_classes import fitted_to_plan

        library, left_out = fitted_to_plan(self.source, plan, self.examples)
        text = f"the {left_out.n} example images, each left out once with one of every class"
        return library, (
            Accuracy(subject="artifact", dataset=text, metric="top-1", interval=left_out),
        )


def open_request(
    *,
    task: str,
    device: str,
    classes: Sequence[str],
    library: str | None,
    input_size: int | None,
    examples: Path | None,
    allow_novel: bool,
    data: Path | None = None,
    watch: Stopwatch | None = None,
    report: Report = silent,
) -> Request:
    """Open everything; the arguments are those of :func:`build`.

    Raises:
        NNFactoryError: What :func:`build` says.
    """
    watch = watch or Stopwatch()
    if allow_novel and examples is None:
        raise UsageError("--allow-novel is about example images: pass --examples DIR with it.")
    if examples is not None and classes:
        raise UsageError(
            "The classes are those of the example images: name none.",
            hints=["leave out --classes, --class and --class-file"],
        )
    with watch.phase("open"):
        profile, source = _open(task, device, library)
        wanted = source.task(tuple(classes))
    with watch.phase("table"):
        options = size_options(source, profile, input_size, report=report)
    request = Request(profile=profile, source=source, options=options, task=wanted)
    if examples is not None:
        with watch.phase("examples"):
            request = _with_examples(request, examples, allow_novel)
    if data is not None:
        with watch.phase("data"):
            request = _with_images(request, data)
    return request


def _with_examples(request: Request, folder: Path, allow_novel: bool) -> Request:
    """The request for the classes of example images."""
    from ..factory.datasets.examples import read_examples
    from ..factory.new_classes import library_of_examples, task_of_examples

    found = read_examples(folder, request.source.input_sizes)
    source = library_of_examples(request.source, found, allow_novel=allow_novel)
    options = [
        replace(option, library=source.at(option.library.input_size)) for option in request.options
    ]
    task = task_of_examples(source, found)
    return replace(request, source=source, options=options, task=task, examples=found)


def _with_images(request: Request, folder: Path) -> Request:
    """The request with labelled images of its classes."""
    from ..factory.datasets.labelled import read_labelled
    from ..factory.measured_choice import own_images

    sizes = [option.library.input_size for option in request.options]
    found = read_labelled(folder, sizes, kind=request.task.kind)
    if request.examples is not None:
        found = found.without(request.examples.files)
    return replace(request, images=own_images(request.source, request.task, found))


def _open(task: str, device: str, library: str | None) -> tuple[DeviceProfile, ModuleLibrary]:
    """Device profile and library of a request.

    Raises:
        UsageError: The library is for another kind of task.
    """
    from ..devices.profile import load_profile
    from ..factory.library.store import default_library, open_library

    profile = load_profile(device)
    source = open_library(library) if library else default_library(task)
    if source.kind != task:
        raise UsageError(
            f"Library '{source.name}' is for '{source.kind}', not for '{task}'.",
            hints=["'nnfactory modules list' shows what every library is for"],
        )
    return profile, source


def size_options(
    source: ModuleLibrary, profile: DeviceProfile, input_size: int | None, *,
    report: Report = silent,
) -> list[SizeOption]:  # fmt: skip
    """The library at every input size, or at the one that is asked for, with latency tables.

    Raises:
        UsageError: The library has no such input size.
        DeviceError: See :func:`latency_table`.
    """
    from ..factory.assembler.sizes import SizeOption

    sizes = source.input_sizes if input_size is None else (input_size,)
    views = [source.at(size) for size in sizes]
    return [
        SizeOption(library=view, table=latency_table(view, profile, report=report))
        for view in views
    ]


def latency_table(
    source: ModuleLibrary, profile: DeviceProfile, *, report: Report = silent
) -> LatencyTable:
    """The measured table of this machine, or the predicted one of a board.

    Raises:
        DeviceError: There is neither for the device.
    """
    from ..devices.latency_table import host_table

    if profile.name == "host":
        return host_table(source, report=report)
    return _predicted_table(source, profile.name, profile.runtime)


@lru_cache(maxsize=32)
def _predicted_table(source: ModuleLibrary, device: str, runtime: str) -> LatencyTable:
    from ..devices.latency_table import predicted_table
    from ..devices.predictor import predictor_for

    return predicted_table(source, predictor_for(device), device, runtime)
