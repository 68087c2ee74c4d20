"""A data folder as a decoded data set: image packs as they are, everything else checked first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .check import Report
from .decode import decode
from .images import DataSet
from .inventory import refuse_errors, take_inventory
from .packs import load_cls_packs, load_det_pack


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """How a recipe reads its data.

    Attributes:
        format: Name of the format.
        classes: Class names in label order.
        split: The split policy, see :func:`divide`.
        input_size: Height and width of the network's input, in pixels.
        skip_broken: Whether images and boxes with errors are left out instead of refused.
        cache_dir: Where decoded images go that are too many for memory.
    """

    format: str
    classes: tuple[str, ...]
    split: str
    input_size: int
    skip_broken: bool = False
    cache_dir: Path | None = None


def source_from_recipe(
    table: Mapping[str, object],
    *,
    classes: int,
    input_size: int,
    skip_broken: bool = False,
    cache_dir: Path | None = None,
) -> Source | None:
    """How the data of a recipe is read, or None: image packs as they are, without a check.

    Args:
        table: ``[data]`` of the recipe.
        classes: Number of classes of its architecture.
        input_size: Largest input size of its architecture, in pixels.
        skip_broken: Whether images and boxes with errors are left out instead of refused.
        cache_dir: Where decoded images go that are too many for memory.

    Raises:
        DataError: ``format`` is there, but ``classes`` or ``split`` is missing or malformed.
    """
    if "format" not in table:
        return None
    names, split = table.get("classes"), table.get("split")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise DataError("The recipe's [data] needs 'classes', a list of class names.")
    if not isinstance(split, str):
        raise DataError("The recipe's [data] needs 'split', a split policy such as 'given'.")
    if len(names) != classes:
        raise DataError(
            f"The recipe's [data] lists {len(names)} classes, its [architecture] says {classes}.",
            hints=[f"set classes = {len(names)} in [architecture]"],
        )
    return Source(
        format=str(table["format"]), classes=tuple(names), split=split, input_size=input_size,
        skip_broken=skip_broken, cache_dir=cache_dir,
    )  # fmt: skip


def load_dataset(
    kind: str,
    folder: Path,
    *,
    splits: tuple[str, ...] = (),
    source: Source | None = None,
    report: Report = lambda phase, done, total: None,
) -> DataSet:
    """Read a data folder.

    Args:
        kind: "cls" or "det".
        folder: Where the files are.
        splits: Splits to decode; the others stay empty; all by default.
        source: How to read it. None reads image packs as they are, of their own size and with
            their own splits. "cls": ``train.npz`` and ``val.npz`` (with ``label``) and
            ``classes.json``; "det": ``images.npz`` and ``annotations.json`` with ``split`` per
            image.
        report: Called with (phase, done, total) images; not for packs as they are.

    Raises:
        DataError: The folder holds no such data, or data with errors that are not skipped.
    """
    if not folder.is_dir():
        raise DataError(f"There is no data folder {folder}.", hints=["pass it as --data DIR"])
    wanted = splits or ("train", "validation", "test")
    if source is None:
        return load_cls_packs(folder, wanted) if kind == "cls" else load_det_pack(folder, wanted)
    inventory = take_inventory(
        folder, format=source.format, kind=kind, classes=source.classes, split=source.split,
        input_size=source.input_size, report=report,
    )  # fmt: skip
    return decode(
        inventory, input_size=source.input_size, splits=wanted, cache_dir=source.cache_dir,
        left_out=refuse_errors(inventory, skip_broken=source.skip_broken), report=report,
    )  # fmt: skip
