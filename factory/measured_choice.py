"""The user's own images decide: the plans that may be best are linked and measured on them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .accuracy_measurement import (
    class_accuracies,
    measure_accuracy,
    task_images,
    tensor_from_pixels,
)
from .datasets import Images
from .datasets.labelled import Labelled
from .errors import DataError, UnknownNameError
from .graph.network import Array
from .graph.normalization import norm_nodes
from .library.library import ModuleLibrary
from .linker import Linked, link
from .schema import Accuracy, MeasuredChoice, Plan, Task

LEAST_EACH = 40  # images; fewer choose nothing, all of them measure
STATISTICS = {"cls": 256, "det": 64}  # images that normalization is re-estimated on, at most


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnImages:
    """Images of a task's classes, with labels counted within the task.

    Attributes:
        name: Of the images, for people.
        choosing: By input size the half that choices are made on; empty where there are few.
        measuring: By input size the other half.
    """

    name: str
    choosing: Mapping[int, Images]
    measuring: Mapping[int, Images]

    @property
    def may_choose(self) -> bool:
        """Whether there are enough images to choose on some and measure on others."""
        return all(len(images) for images in self.choosing.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A plan that was linked, and its accuracy on the choosing images.

    Attributes:
        plan: The plan, with the normalization that was better.
        linked: Its network.
        accuracy: In [0, 1].
    """

    plan: Plan
    linked: Linked
    accuracy: float


def own_images(library: ModuleLibrary, task: Task, found: Labelled, *, seed: int = 0) -> OwnImages:
    """The images of a task's classes, divided at random into two halves.

    Images of classes that the library or the task lacks are left out.

    Args:
        library: Knows how classes may be spelled.
        task: The task.
        found: Labelled images, at the input sizes of the plans that will be compared.
        seed: Of the division.

    Raises:
        DataError: No image shows a class of the task.
    """
    positions = [_position(library, name) for name in found.classes]
    wanted = library.class_indices(task)
    by_size = {
        size: task_images(_relabelled(images, positions), wanted)
        for size, images in found.images.items()
    }
    count = len(next(iter(by_size.values())))
    if not count:
        listed = ", ".join(repr(name) for name in found.classes[:5])
        raise DataError(
            f"{found.folder} holds no image of the task's classes (examples do not count); its "
            f"classes are {listed}" + (" .." if len(found.classes) > 5 else "."),
            hints=[f"nnfactory modules show {library.name} lists how they are spelled"],
        )
    order = np.random.default_rng(seed).permutation(count)
    few = count < 2 * LEAST_EACH
    middle = 0 if few else count // 2
    first, second = order[:middle], order[middle:]  # unsorted: of a part every class is there
    part = f", {found.split} part" if found.split else ""
    return OwnImages(
        name=f"{found.folder.resolve().name}{part}{_missing(library, task, found, by_size)}",
        choosing={size: images.subset(first) for size, images in by_size.items()},
        measuring={size: images.subset(second) for size, images in by_size.items()},
    )


def _missing(
    library: ModuleLibrary, task: Task, found: Labelled, images: Mapping[int, Images]
) -> str:
    """How many of the task's classes the images show, for people; "" for all.

    Raises:
        DataError: Some were asked for by name and are not shown.
    """
    some = next(iter(images.values()))
    shown = set(some.labels.tolist()) or {int(r) for rows in some.boxes for r in rows[:, 0]}
    if len(shown) == len(task.classes):
        return ""
    lacking = [name for index, name in enumerate(task.classes) if index not in shown]
    strange = [name for name in found.classes if _position(library, name) is None]
    if len(task.classes) < len(library.classes):
        raise DataError(
            f"{found.folder} shows {len(shown)} of {len(task.classes)} classes; there is no image "
            f"of {', '.join(map(repr, lacking[:5]))}.",
            hints=[f"folders that name no class: {', '.join(map(repr, strange[:5]))}"]
            if strange
            else [],
        )
    return f", {len(shown)} of {len(task.classes)} classes"


def _position(library: ModuleLibrary, name: str) -> int | None:
    try:
        return library.class_index(name)
    except UnknownNameError:
        return None


def _relabelled(images: Images, positions: Sequence[int | None]) -> Images:
    """The images with the library's class positions; -1 stands for none of them."""
    table = np.array([-1 if position is None else position for position in positions], np.int64)
    if len(images.labels):
        return replace(images, labels=table[images.labels])
    boxes = []
    for rows in images.boxes:
        moved = rows.copy()
        moved[:, 0] = table[rows[:, 0].astype(int)]
        boxes.append(moved)
    return replace(images, boxes=tuple(boxes))


def best_candidate(
    plans: Sequence[tuple[Plan, ModuleLibrary]], images: OwnImages
) -> tuple[int, Candidate, MeasuredChoice]:
    """Link every plan, also with normalization re-estimated on the images, and take the best.

    Of equals the first wins, and stored statistics before re-estimated ones.

    Args:
        plans: Plans with the library to link each from, the one that is estimated best first.
        images: With enough of them to choose on.

    Returns:
        Which plan it is, the candidate, and how it was chosen.
    """
    best: tuple[int, Candidate] | None = None
    tries = 0
    for number, (plan, library) in enumerate(plans):
        chosen = images.choosing[plan.input_size]
        some = tensor_from_pixels(chosen.pixels[: STATISTICS[plan.task.kind]])
        has_choice = not plan.task.examples and bool(norm_nodes(library.network))
        kinds = (plan.normalization, "reestimated") if has_choice else (plan.normalization,)
        for normalization in kinds:  # a layer fitted to examples goes with its own statistics
            digest = _digest(some) if normalization == "reestimated" else ""
            tried = replace(plan, normalization=normalization, statistics_of=digest)
            linked = link(library, tried, images=some)
            value = class_accuracies(linked.network, chosen, len(plan.task.classes)).value
            tries += 1
            if best is None or value > best[1].accuracy:
                best = number, Candidate(plan=tried, linked=linked, accuracy=value)
    assert best is not None
    number, candidate = best
    count = len(images.choosing[candidate.plan.input_size])
    how = MeasuredChoice(candidates=tries, images=count, accuracy=candidate.accuracy)
    return number, candidate, how


def _digest(images: Array) -> str:
    return hashlib.sha256(images.tobytes()).hexdigest()[:16]


def measured_accuracy(linked: Linked, plan: Plan, images: OwnImages) -> Accuracy:
    """Accuracy on the measuring images, with a 95 % interval."""
    chosen = images.measuring[plan.input_size]
    interval = measure_accuracy(linked.network, chosen, len(plan.task.classes))
    kind = plan.task.kind
    return Accuracy(
        subject="artifact",
        dataset=f"{images.name}, {len(chosen)} images"
        + (" that took no part in the choice" if images.may_choose else ""),
        metric="top-1" if kind == "cls" else "AP50",
        interval=interval,
    )
