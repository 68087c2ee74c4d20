"""What the raw outputs of a foreign detector are: which map says what, and in which way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from ..graph.network import Network

FORMATS = ("fastestdet", "yolo-fastestv2")
KEYS = ("stride", "objectness", "boxes", "classes", "anchors")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadMap:
    """The outputs of one feature map.

    Attributes:
        stride: Pixels of the image per cell.
        objectness: Name of the output (1, A, H, W), one logit per anchor.
        boxes: Of the output (1, 4 A, H, W).
        classes: Of the output (1, N, H, W): logits that all anchors of a cell share.
        anchors: Width and height of each, in pixels; () where the format has none, then A is 1.
    """

    stride: int
    objectness: str
    boxes: str
    classes: str
    anchors: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionHead:
    """How boxes are read from raw maps.

    Attributes:
        format: One of :data:`FORMATS`, as the projects of these names decode.
        maps: From the finest to the coarsest.

    Raises:
        DataError: There is no such format, or its maps make no sense.
    """

    format: str
    maps: tuple[HeadMap, ...]

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise DataError(f"head.format must be one of {', '.join(FORMATS)}, got {self.format}.")
        if not self.maps:
            raise DataError("head.maps must name one feature map at least.")
        for one in self.maps:
            if (self.format == "yolo-fastestv2") != bool(one.anchors):
                need = "anchors" if not one.anchors else "no anchors"
                raise DataError(f"A map of format {self.format!r} needs {need}.")

    def check(self, network: Network, labels: int) -> None:
        """Raise unless a network has these outputs.

        Raises:
            DataError: It has not, or they have other sizes.
        """
        named = [name for m in self.maps for name in (m.objectness, m.boxes, m.classes)]
        if sorted(named) != sorted(network.outputs):
            raise DataError(
                f"The head names the outputs {', '.join(sorted(named))}; the network has "
                f"{', '.join(sorted(network.outputs))}.",
                hints=["every raw output is named once"],
            )
        (size,) = {shape[2] for shape in network.inputs.values()}
        for one in self.maps:
            side, anchors = size // one.stride, max(1, len(one.anchors))
            wanted = {one.objectness: anchors, one.boxes: 4 * anchors, one.classes: labels}
            for name, channels in wanted.items():
                shape = network.outputs[name]
                if shape != (1, channels, side, side):
                    raise DataError(
                        f"Output '{name}' must be (1, {channels}, {side}, {side}) by labels, "
                        f"anchors and stride, it is {shape}."
                    )

    def table(self) -> dict[str, Any]:
        """For a card."""
        rows = []
        for one in self.maps:
            row: dict[str, Any] = {key: getattr(one, key) for key in KEYS[:4]}
            if one.anchors:
                row["anchors"] = [list(anchor) for anchor in one.anchors]
            rows.append(row)
        return {"format": self.format, "maps": rows}


def head_from_table(table: Mapping[str, Any]) -> DetectionHead:
    """What a card's ``[head]`` says.

    Raises:
        DataError: It says something else.
    """
    if set(table) != {"format", "maps"} or not isinstance(table["maps"], list):
        raise DataError("[head] must hold 'format' and one [[head.maps]] or more, nothing else.")
    return DetectionHead(format=str(table["format"]), maps=tuple(map(_map, table["maps"])))


def _map(row: Any) -> HeadMap:
    names = isinstance(row, Mapping) and all(isinstance(row.get(key), str) for key in KEYS[1:4])
    if not names or not set(row) <= set(KEYS):
        raise DataError(
            "A [[head.maps]] must hold 'stride' and the names of the outputs 'objectness', "
            "'boxes' and 'classes', and may hold 'anchors'."
        )
    stride = row.get("stride")
    if type(stride) is not int or stride < 1:
        raise DataError(f"The stride of a map must be a whole number above 0, got {stride!r}.")
    return HeadMap(
        stride=stride, objectness=row["objectness"], boxes=row["boxes"], classes=row["classes"],
        anchors=_anchors(row.get("anchors", [])),
    )  # fmt: skip


def _anchors(rows: Any) -> tuple[tuple[float, float], ...]:
    def is_pair(row: Any) -> bool:
        return (
            isinstance(row, Sequence)
            and len(row) == 2
            and all(type(x) in (int, float) and 0 < x < math.inf for x in row)
        )

    if not isinstance(rows, list) or not all(map(is_pair, rows)):
        raise DataError(f"Anchors must be pairs of a width and a height in pixels, got {rows!r}.")
    return tuple((float(width), float(height)) for width, height in rows)
