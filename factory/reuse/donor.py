"""A foreign checkpoint: its network and what it takes for an image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import helper

from ..datasets.fitting import center_cropped
from ..errors import DataError, SpecError
from ..graph.network import Array, Network
from .detection_head import DetectionHead

COLORS = ("RGB", "BGR")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Donor:
    """A pretrained network that blocks are taken from.

    Attributes:
        name: Unique in a pool: letters, digits, ".", "_" and "-".
        network: With one input of images (1, 3, S, S).
        mean: Per color, of pixels in [0, 1]; subtracted.
        std: The same; divided by.
        colors: "RGB" or "BGR".
        labels: What each output stands for, in order; () where it was not said.
        license: Of the weights; "" where it is not known.
        head: Of a detector, how boxes are read from its raw maps; None of other networks.
    """

    name: str
    network: Network
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    colors: str = "RGB"
    labels: tuple[str, ...] = ()
    license: str = ""
    head: DetectionHead | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SpecError(
                f"Donor.name must be of letters, digits, '.', '_' and '-', got {self.name!r}."
            )
        if self.colors not in COLORS:
            raise SpecError(f"Donor.colors must be one of {COLORS}, got {self.colors!r}.")
        self._check_normalization()
        shapes = list(self.network.inputs.values())
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][:2] != (1, 3):
            raise DataError(
                f"'{self.name}' must read one image (1, 3, S, S), its inputs are {shapes}."
            )
        if shapes[0][2] != shapes[0][3]:
            raise DataError(f"'{self.name}' reads images of {shapes[0][2:]}: not square.")
        if self.head is not None:
            self.head.check(self.network, len(self.labels))
        elif self.labels:
            self._check_labels()

    def _check_labels(self) -> None:
        """One per output of a classifier; what other outputs mean only a card says."""
        outputs = list(self.network.outputs.values())
        if len(outputs) != 1 or len(outputs[0]) < 2 or max(outputs[0][2:], default=1) > 1:
            raise DataError(
                f"'{self.name}' gives {', '.join(map(str, outputs))}: no row of classes.",
                hints=["import a detector with a card that has a [head]: docs/disassembly.md",
                       "export a classifier so that it ends in its logits"],
            )  # fmt: skip
        if outputs[0][1] != len(self.labels):
            raise DataError(
                f"'{self.name}' has {outputs[0][1]} outputs and {len(self.labels)} labels."
            )

    def _check_normalization(self) -> None:
        """Three numbers each, of pixels in [0, 1]; those of pixels up to 255 are a common slip."""
        fits = len(self.mean) == 3 and len(self.std) == 3
        if (
            not fits
            or not all(0 <= m <= 1 for m in self.mean)
            or not all(0 < s <= 1 for s in self.std)
        ):
            raise SpecError(
                f"Donor.mean must hold three numbers in [0, 1] and std three in (0, 1], got "
                f"{self.mean} and {self.std}.",
                hints=["pixels count from 0 to 1 here: divide those of 0 to 255 by 255"],
            )

    def outputs_of(self, classes: Sequence[str]) -> list[int]:
        """Positions of classes among the labels, by name or first synonym.

        Raises:
            DataError: A class is none of the labels.
        """
        known: dict[str, int] = {}
        for position, label in enumerate(self.labels):
            known.setdefault(label.split(",")[0].strip().casefold(), position)
        known |= {label.casefold(): position for position, label in enumerate(self.labels)}
        missing = [name for name in classes if name.casefold() not in known]
        if missing:
            raise DataError(
                f"'{self.name}' has no class {missing[0]!r}; its labels are "
                f"{', '.join(map(repr, self.labels[:5]))}{' ..' if len(self.labels) > 5 else ''}.",
                hints=["name the folders of the images as its labels",
                       "reassemble takes any classes"],
            )  # fmt: skip
        return [known[name.casefold()] for name in classes]

    @property
    def kind(self) -> str:
        """The kind of task: "cls" or "det"."""
        return "cls" if self.head is None else "det"

    @property
    def input_name(self) -> str:
        """The tensor that holds the image."""
        return next(iter(self.network.inputs))

    @property
    def input_size(self) -> int:
        """Side of the image in pixels."""
        return next(iter(self.network.inputs.values()))[2]

    @property
    def stride(self) -> int:
        """What a side of the input must be a multiple of: a cell of a detector's coarsest map."""
        return 1 if self.head is None else max(one.stride for one in self.head.maps)

    def entry(self) -> Network:
        """What :meth:`tensor` does, as a network that reads "images", RGB in [0, 1]."""
        shape = (1, 3, self.input_size, self.input_size)
        nodes, source = [], "images"
        weights = {
            "/mean": np.array(self.mean, np.float32)[:, None, None],
            "/std": np.array(self.std, np.float32)[:, None, None],
        }
        if self.colors == "BGR":
            weights["/order"] = np.array([2, 1, 0], np.int64)
            nodes.append(helper.make_node("Gather", [source, "/order"], ["bgr"], axis=1))
            source = "bgr"
        nodes.append(helper.make_node("Sub", [source, "/mean"], ["centered"], name="center"))
        nodes.append(helper.make_node("Div", ["centered", "/std"], ["normalized"], name="scale"))
        return Network(
            name="entry", nodes=tuple(nodes), weights=weights, inputs={"images": shape},
            outputs={"normalized": shape},
        )  # fmt: skip

    def tensor(self, pixels: Array) -> Array:
        """An image (H, W, 3), uint8 RGB, as the network reads it: (1, 3, S, S)."""
        size = self.input_size
        fitted = pixels if pixels.shape[:2] == (size, size) else center_cropped(pixels, size)
        planes = fitted.astype(np.float32).transpose(2, 0, 1) / np.float32(255)
        if self.colors == "BGR":
            planes = planes[::-1]
        mean, std = (np.array(rows, np.float32)[:, None, None] for rows in (self.mean, self.std))
        return np.ascontiguousarray(((planes - mean) / std)[None])
