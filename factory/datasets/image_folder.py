"""ImageFolder: one folder of images per class, perhaps below train, val and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .files import image_files, upright_size
from .problems import problem
from .records import Listing, Record, class_positions, split_from_name


def class_folders(folder: Path) -> dict[str, set[str]]:
    """Class folders by split; the split is "" where they lie at the top.

    Raises:
        DataError: Folders of splits and of classes lie side by side.
    """
    found: dict[str, set[str]] = {}
    for name in image_files(folder).paths:
        split, label = _place(name)
        if label:
            found.setdefault(split, set()).add(label)
    if "" in found and len(found) > 1:
        classes = ", ".join(repr(name) for name in sorted(found[""])[:3])
        raise DataError(
            f"{folder} holds folders of splits beside folders of classes ({classes}).",
            hints=["put every class folder below train/, val/ or test/, or none"],
        )
    return found


def read_image_folder(folder: Path, classes: Sequence[str] = ()) -> Listing:
    """The images of one folder per class; folders below a class belong to it.

    Args:
        folder: Holds the class folders, or train, val and test with the class folders.
        classes: The list of classes to use; by default the names of the folders, sorted.

    Raises:
        DataError: There are no class folders.
    """
    by_split = class_folders(folder)
    names, positions = class_positions(sorted(set().union(*by_split.values())), classes, folder)
    records, problems = [], []
    for name, path in image_files(folder).paths.items():
        split, label = _place(name)
        if not label:
            problems.append(problem("no-annotation", name, "it lies in no class folder"))
            continue
        if label not in positions:
            message = f"the folder {label!r} is not in the list of classes"
            problems.append(problem("unknown-label", name, message))
            continue
        width, height = upright_size(path)
        records.append(
            Record(
                name=name,
                source=path,
                width=width,
                height=height,
                label=positions[label],
                split=split,
            )  # fmt: skip
        )
    return Listing(
        format="imagefolder", kind="cls", classes=names, records=tuple(records),
        problems=tuple(problems),
    )  # fmt: skip


def _place(name: str) -> tuple[str, str]:
    """Split and class folder of an image, "" where there is none."""
    folders = name.split("/")[:-1]
    split = split_from_name(folders[0]) if folders else ""
    below = folders[1:] if split else folders
    return split, below[0].strip() if below else ""
