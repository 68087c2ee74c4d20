"""A training recipe: the architecture of a supernet and how it is trained, read from TOML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError, UnknownNameError
from ..toml_files import tomllib

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
MOST_ALTERATIONS = 10  # as many as there are in alter.CHANGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks at one resolution; the first one halves it. Every block can be skipped.

    Attributes:
        channels: Channels of the residual stream.
        hidden: Channels inside a block, a multiple of ``group``.
        group: Channels of one module, 8 or 16.
        blocks: Number of blocks.
    """

    channels: int
    hidden: int
    group: int
    blocks: int

    def __post_init__(self) -> None:
        if self.group not in (8, 16) or self.hidden % self.group or self.hidden <= 0:
            raise DataError(
                f"Stage.hidden must be a positive multiple of group (8 or 16), got hidden "
                f"{self.hidden} and group {self.group}."
            )
        if self.channels < 1 or self.blocks < 1:
            raise DataError("Stage.channels and Stage.blocks must be at least 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The shape of a supernet.

    Attributes:
        kind: "cls" or "det".
        input_size: Height and width of the input, in pixels; the largest one.
        input_sizes: All sizes that the supernet is trained at, from large to small.
        mean: Channel means of the input, RGB in [0, 1].
        std: Channel standard deviations of the input, RGB in [0, 1].
        stem_channels: Channels after the stem's convolution.
        stem_stride: Stride of the stem, 1, 2 or 4.
        stem_kernel: Side of its kernel; one that equals the stride takes patches without padding.
        stages: The backbone, from high to low resolution.
        classes: Number of classes of the library.
        neck_channels: Channels of the feature pyramid (det).
        head_hidden: Hidden channels of the two elastic blocks before each head, one for the
            classes and one for the boxes (det).
        head_group: Channels of one module of those blocks (det).
        head_strides: Strides of the feature maps that detect (det).
    """

    kind: str
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stem_channels: int
    stem_stride: int
    stages: tuple[Stage, ...]
    classes: int
    input_sizes: tuple[int, ...] = ()
    stem_kernel: int = 3
    neck_channels: int = 0
    head_hidden: int = 0
    head_group: int = 16
    head_strides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("cls", "det"):
            raise DataError(f"Architecture.kind must be 'cls' or 'det', got {self.kind!r}.")
        object.__setattr__(self, "input_sizes", self.input_sizes or (self.input_size,))
        if self.input_size != max(self.input_sizes):
            raise DataError("Architecture.input_size must be the largest of input_sizes.")
        if any(size % self.stride_of(len(self.stages) - 1) for size in self.input_sizes):
            raise DataError("Architecture.input_sizes must be multiples of the largest stride.")
        if self.stem_kernel != self.stem_stride and self.stem_kernel % 2 == 0:
            raise DataError("Architecture.stem_kernel must be odd, or equal to stem_stride.")
        if self.kind == "det" and not set(self.head_strides) <= set(self.strides):
            raise DataError(f"head_strides must be among {self.strides}.")

    def stride_of(self, stage: int) -> int:
        """Input pixels per feature pixel after ``stage`` (0-based)."""
        return self.stem_stride << (stage + 1)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride after every stage."""
        return tuple(self.stride_of(index) for index in range(len(self.stages)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a supernet is trained.

    Attributes:
        epochs: Passes over the training images.
        batch: Images per step.
        lr: Peak learning rate of AdamW, reached after ``warmup`` of the steps, then a cosine.
        weight_decay: Decoupled weight decay of the convolution and linear weights.
        warmup: Share of the steps with rising learning rate, in [0, 1).
        label_smoothing: Of the cross entropy (cls), in [0, 1).
        distillation: Weight of the distillation from the full network.
        temperature: Softmax temperature of the distillation (cls).
        mosaic: Share of the images made of four (det), in [0, 1); none at the end.
        paste: Share of the images that objects of others are pasted onto (det), in [0, 1]; see
            :mod:`.paste`.
        alterations: Random changes of light, color and sharpness per image, besides those that
            every image gets; see :mod:`.alter`.
        narrow: Narrower networks per step.
        average: Decay of the running average of the weights, which is what is published.
        seed: Of the weights, the order and the augmentation.
    """

    epochs: int
    batch: int
    lr: float
    weight_decay: float = 0.05
    warmup: float = 0.05
    label_smoothing: float = 0.0
    distillation: float = 1.0
    temperature: float = 2.0
    mosaic: float = 0.0
    paste: float = 0.0
    alterations: int = 0
    narrow: int = 1
    average: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.mosaic < 1 or not 0 <= self.average < 1:
            raise DataError("Training.mosaic and Training.average must be in [0, 1).")
        if not 0 <= self.paste <= 1:
            raise DataError("Training.paste must be in [0, 1].")
        if self.narrow < 0:
            raise DataError("Training.narrow must not be negative.")
        if not 0 <= self.alterations <= MOST_ALTERATIONS:
            raise DataError(f"Training.alterations must be from 0 to {MOST_ALTERATIONS}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Teaching:
    """A public network that is fine-tuned first and then teaches the supernet (cls).

    Attributes:
        folder: Its folder beside the data, such as "pretrained".
        network: Its file, without ``.graph.json`` and ``.safetensors``.
        license: Licence of its weights, which are not shipped.
        size: Height and width at which it sees the images, in pixels.
        epochs: Passes over the training images to fine-tune it.
        lr: Peak learning rate of AdamW; the new head learns three times as fast.
        views: Fixed shifted and mirrored views of every image that it answers.
        own: Share of the answers that the library gives which the training starts from, in [0, 1):
            both teach as one.
    """

    folder: str
    network: str
    license: str
    size: int
    epochs: int
    lr: float
    views: int = 4
    own: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.own < 1:
            raise DataError("Teaching.own must be in [0, 1).")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditioning:
    """How the modulation by the task's classes is learned when publishing.

    Attributes:
        steps: Optimizer steps; 0 publishes without modulation.
        batch: Images per step.
        lr: Peak learning rate of Adam, then a cosine.
        rank: Directions that the vectors of the classes are made of.
        plans: Networks in the pool.
    """

    steps: int = 0
    batch: int = 128
    lr: float = 1e-3
    rank: int = 16
    plans: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything needed to train one module library again.

    Attributes:
        name: Name of the library.
        title: One line for people.
        architecture: Shape of the supernet.
        training: How it is trained.
        data: Provenance of the data: ``folder``, ``name``, ``origin``, ``license``; of a user's own
            also ``format``, ``split`` and ``classes``.
        weights_license: Licence and conditions of the trained weights.
        init: Library whose weights the training starts from, by name, and with its id once it has
            started; "" for random weights.
        teacher: Who teaches the supernet besides the labels.
        conditioning: How the modulation is learned.
    """

    name: str
    title: str
    architecture: Architecture
    training: Training
    data: dict[str, Any]
    weights_license: str
    init: str = ""
    teacher: Teaching | None = None
    conditioning: Conditioning = field(default_factory=Conditioning)

    def __post_init__(self) -> None:
        if self.teacher is not None and self.teacher.own and not self.init:
            raise DataError("Teaching.own needs a library that the training starts from (init).")


def padding_of(kernel: int, stride: int) -> int:
    """Zeros around the input: none for patches (kernel = stride > 1), else half the kernel."""
    return 0 if kernel == stride else kernel // 2


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with nnfactory."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a shipped recipe by name, or any recipe by path.

    Raises:
        UnknownNameError: There is no such recipe.
        DataError: The file is no valid recipe.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        raise UnknownNameError.with_suggestion(
            "recipe", str(name_or_path), shipped_recipes(), listing="nnfactory modules train --help"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return recipe_from_table(table)
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no valid recipe: {error!r}.") from error


def recipe_from_table(table: dict[str, Any]) -> Recipe:
    """Build a recipe from parsed TOML; see ``factory/recipes`` for the form."""
    shape = dict(table["architecture"])
    stages = tuple(Stage(**stage) for stage in shape.pop("stages"))
    for name in ("mean", "std", "head_strides", "input_sizes"):
        if name in shape:
            shape[name] = tuple(shape[name])
    return Recipe(
        name=table["name"],
        title=table["title"],
        architecture=Architecture(stages=stages, **shape),
        training=Training(**table["training"]),
        data=table["data"],
        weights_license=table["weights_license"],
        init=table.get("init", ""),
        teacher=Teaching(**table["teacher"]) if table.get("teacher") else None,
        conditioning=Conditioning(**table.get("conditioning", {})),
    )


def table_from_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain JSON values, the inverse of :func:`recipe_from_table`."""
    return dataclasses.asdict(recipe)
