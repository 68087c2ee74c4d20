"""A module library in memory: the supernet, its modules and what is known about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UnknownNameError, UsageError
from ..graph.network import Array, Network
from ..modulation import Modulation, plan_features
from ..schema import Slot, Task
from .superclasses import superclasses

CLASSES = "classes"  # name of the slot that holds the classes
NORMALIZATIONS = ("sliced", "stored", "reestimated")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Statistics:
    """Moments at every normalization of sampled plans, measured when publishing.

    Attributes:
        counts: (S, B) active groups of every block in each sampled plan.
        mean: Per BatchNormalization node (S, C).
        variance: Per BatchNormalization node (S, C).
    """

    counts: Array
    mean: Mapping[str, Array]
    variance: Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SizeData:
    """What was measured at one input size when publishing.

    Attributes:
        curves: (K, sum of (groups + 1)) fall of the loss of each class when a block grows to
            0, 1, .. groups, block after block.
        statistics: Moments of sampled plans, for "stored" normalization; None in a draft.
        accuracy: The fit of the accuracy estimate, the accuracy per class and the measured pairs.
    """

    curves: Array
    statistics: Statistics | None
    accuracy: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prototypes:
    """Where the classes lie in the features of the full network, at the largest input size.

    Attributes:
        mean: (K, C) mean features of training images of every class.
        spread: (C,) standard deviation within a class.
    """

    mean: Array
    spread: Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModuleLibrary:
    """All modules of one supernet, seen at one of its input sizes.

    Attributes:
        name: Such as "fod31".
        id: First 16 hex digits of the SHA-256 of ``library.toml``, which holds all file hashes.
        kind: "cls" or "det".
        card: Everything in ``library.toml``: metric, data, licences, recipe, compute.
        classes: Class names in output order.
        wordnet: WordNet id per class, or empty.
        input_size: Side of the input in pixels, of ``network`` and of everything measured.
        head_strides: Strides of the feature maps that detect (det).
        normalization: "sliced" or "stored": the better one on validation images of the two that
            need no images; ``card`` tells what all three of ``NORMALIZATIONS`` reach.
        network: The whole network, normalization unfolded.
        slots: Blocks in execution order, then the classes.
        importance: (K, M) per class the importance of every block module, slot after slot, at
            "full" and at "half" width.
        sizes: What was measured, by input size.
        modulation: Generates scale and shift of the normalizations for a task and a plan; None
            where that was not learned or did not help.
        folder: Where it is.
        prototypes: Of a classifier; None where publishing has not measured them.
    """

    name: str
    id: str
    kind: str
    card: Mapping[str, Any]
    classes: tuple[str, ...]
    wordnet: tuple[str, ...]
    input_size: int
    head_strides: tuple[int, ...]
    normalization: str
    network: Network
    slots: tuple[Slot, ...]
    importance: Mapping[str, Array]
    sizes: Mapping[int, SizeData]
    modulation: Modulation | None
    folder: Path
    prototypes: Prototypes | None = None

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """The input sizes that the supernet was trained at, from large to small."""
        return tuple(sorted(self.sizes, reverse=True))

    def plan_features(self, counts: Mapping[str, int]) -> Array:
        """What a modulation knows of a plan at this input size."""
        return plan_features(self.blocks, counts, self.input_size / max(self.sizes))

    @property
    def curves(self) -> Array:
        """See :class:`SizeData`."""
        return self.sizes[self.input_size].curves

    @property
    def statistics(self) -> Statistics | None:
        """See :class:`SizeData`."""
        return self.sizes[self.input_size].statistics

    @property
    def accuracy(self) -> Mapping[str, Any]:
        """See :class:`SizeData`."""
        return self.sizes[self.input_size].accuracy

    def at(self, size: int) -> ModuleLibrary:
        """The same library at another input size.

        Raises:
            UsageError: The supernet was not trained at that size.
        """
        if size not in self.sizes:
            listed = ", ".join(map(str, self.input_sizes))
            raise UsageError(
                f"Library '{self.name}' has no input size {size}: it was trained at {listed}.",
                hints=[f"--imgsz {self.input_sizes[0]}"],
            )
        return self if size == self.input_size else _at(self, size)

    @property
    def blocks(self) -> tuple[Slot, ...]:
        """The slots whose modules the assembler chooses."""
        return tuple(slot for slot in self.slots if slot.kind == "block")

    @property
    def class_slot(self) -> Slot:
        """The slot whose modules the task chooses."""
        return next(slot for slot in self.slots if slot.kind == "classes")

    def class_index(self, name: str) -> int:
        """Position of a class by its name, its first WordNet synonym or its WordNet id.

        Raises:
            UnknownNameError: No class answers to the name.
        """
        names = _class_names(self)
        index = names.get(name.strip(), names.get(name.strip().casefold()))
        if index is None:
            raise UnknownNameError.with_suggestion(
                f"class in library '{self.name}'", name, self._spellings(),
                listing=f"nnfactory modules show {self.name}",
            )  # fmt: skip
        return index

    def task(self, classes: tuple[str, ...] = ()) -> Task:
        """The task with these classes in the library's order; none means all of them.

        Args:
            classes: As :meth:`class_index` takes them, or superclasses such as "bird", which
                stand for all of their kind.

        Raises:
            UnknownNameError: No class answers to a name.
            UsageError: A class is named twice.
        """
        if not classes:
            return Task(kind=self.kind, classes=self.classes)
        index = [position for name in classes for position in self._positions(name)]
        twice = sorted({self.classes[i] for i in index if index.count(i) > 1})
        if twice:
            raise UsageError(f"Class {twice[0]!r} is named more than once.")
        return Task(kind=self.kind, classes=tuple(self.classes[i] for i in sorted(index)))

    @property
    def superclasses(self) -> dict[str, tuple[int, ...]]:
        """Names that stand for several classes, with the positions of these."""
        return superclasses(self.wordnet)

    def _positions(self, name: str) -> tuple[int, ...]:
        """The class of a name; where there is none, the classes of a superclass."""
        try:
            return (self.class_index(name),)
        except UnknownNameError:
            found = self.superclasses.get(name.strip().casefold())
            if found is None:
                raise
            return found

    def class_indices(self, task: Task) -> tuple[int, ...]:
        """Positions of a task's classes, rising."""
        return tuple(self.class_index(name) for name in task.classes)

    def _spellings(self) -> list[str]:
        names = [name.split(",")[0].strip() for name in self.classes]
        return [*names, *self.wordnet, *self.superclasses]


@lru_cache(maxsize=32)
def _class_names(library: ModuleLibrary) -> dict[str, int]:
    """Everything that a class answers to; the full name is the strongest."""
    names: dict[str, int] = {}
    for index, name in enumerate(library.classes):
        names.setdefault(name.split(",")[0].strip().casefold(), index)
    for index, name in enumerate(library.wordnet):
        names[name.casefold()] = index
    for index, name in enumerate(library.classes):
        names[name.casefold()] = index
    return names | {name: index for index, name in enumerate(library.classes)}


@lru_cache(maxsize=32)
def _at(library: ModuleLibrary, size: int) -> ModuleLibrary:
    """A view of the library; the same object every time, so that what depends on it is kept."""
    ratio = Fraction(size, library.input_size)
    slots = tuple(
        slot if slot.kind == "classes" and library.kind == "cls" else _rescaled(slot, ratio)
        for slot in library.slots
    )
    network = replace(
        library.network,
        inputs={name: (*s[:2], size, size) for name, s in library.network.inputs.items()},
        outputs={
            name: (*shape[:2], *(int(side * ratio) for side in shape[2:]))
            for name, shape in library.network.outputs.items()
        },
    )
    return replace(library, input_size=size, network=network, slots=slots)


def _rescaled(slot: Slot, ratio: Fraction) -> Slot:
    """The slot with the multiply-adds of another input size."""
    modules = tuple(
        replace(module, mmacs=module.mmacs * float(ratio) ** 2) for module in slot.modules
    )
    return replace(slot, modules=modules)
