"""Image files below a folder: finding them, matching names, reading headers."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from .problems import Problem, problem

# The last three cannot be decoded here, and are listed so that they are reported and not missed.
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .png .bmp .webp .tif .tiff .gif .heic .heif .avif".split()
)  # fmt: skip
# What Pillow raises on files that are damaged or no images.
UNREADABLE_IMAGE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError,
    ZeroDivisionError, struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_ORIENTATION = 0x0112  # EXIF tag
_SIDEWAYS = frozenset({5, 6, 7, 8})  # its values that swap width and height


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """The image files below a folder; hidden files and folders are not looked at.

    Attributes:
        paths: File by its name: the path relative to the folder, with "/".
        by_last: Names by their last part.
        by_stem: Names by their last part without suffix.
    """

    paths: Mapping[str, Path]
    by_last: Mapping[str, tuple[str, ...]]
    by_stem: Mapping[str, tuple[str, ...]]

    def matching(self, wanted: str, *, near: tuple[str, ...] = ()) -> list[str]:
        """The names that end with the path ``wanted``.

        Args:
            wanted: A file name as an annotation writes it; folders above it must agree.
            near: Folder names; if some matches lie below one of them, only those are given.
        """
        path = PurePosixPath(wanted.replace("\\", "/"))
        tail = [part for part in path.parts if part not in ("/", ".")]
        found = [
            name
            for name in self.by_last.get(path.name, ())
            if name.split("/")[-len(tail) :] == tail
        ]
        nearer = [name for name in found if set(name.split("/")[:-1]) & set(near)]
        return nearer or found


def image_files(folder: Path) -> ImageFiles:
    """Every image file below ``folder``, sorted by name; links to folders are followed once."""
    paths: dict[str, Path] = {}
    seen = {os.path.realpath(folder)}
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if _is_new(Path(place, name), seen)]
        for file in files:
            path = Path(place, file)
            if path.suffix.lower() in IMAGE_SUFFIXES and not file.startswith("."):
                paths[path.relative_to(folder).as_posix()] = path
    names = sorted(paths)
    return ImageFiles(
        paths={name: paths[name] for name in names},
        by_last=_grouped((name.rsplit("/", 1)[-1], name) for name in names),
        by_stem=_grouped((PurePosixPath(name).stem, name) for name in names),
    )


def _is_new(folder: Path, seen: set[str]) -> bool:
    """Whether a folder is visible and was not seen yet; then it is added to ``seen``."""
    real = os.path.realpath(folder)
    if folder.name.startswith(".") or folder.name == "__MACOSX" or real in seen:
        return False
    seen.add(real)
    return True


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """The second of every pair by the first."""
    groups: dict[str, list[str]] = {}
    for key, name in pairs:
        groups.setdefault(key, []).append(name)
    return {key: tuple(names) for key, names in groups.items()}


def content(source: Path | bytes) -> bytes:
    """The bytes of an image file.

    Raises:
        OSError: The file cannot be read.
    """
    return source if isinstance(source, bytes) else source.read_bytes()


def upright_size(source: Path | bytes) -> tuple[int, int]:
    """Width and height in pixels, upright as the EXIF data says; (0, 0) if it cannot be opened."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return oriented_size(image)
    except UNREADABLE_IMAGE:
        return 0, 0


def oriented_size(image: Image.Image) -> tuple[int, int]:
    """Width and height in pixels that the opened image has once it is upright."""
    width, height = image.size
    return (height, width) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (width, height)


def size_problem(
    name: str, stated: tuple[object, object], actual: tuple[int, int]
) -> Problem | None:
    """The finding that an annotation was made for another size, or None.

    Args:
        name: The image.
        stated: Width and height as annotated, in pixels; anything but positive integers: unknown.
        actual: Width and height of the file, upright, in pixels; (0, 0): unknown.
    """
    known = all(isinstance(side, int) and side > 0 for side in stated)
    if not known or actual == (0, 0) or stated == actual:
        return None
    turned = " (its EXIF data turns it)" if stated == actual[::-1] else ""
    return problem(
        "size-differs", name,
        f"annotated at {stated[0]}x{stated[1]} pixels, the file has "
        f"{actual[0]}x{actual[1]}{turned}",
    )  # fmt: skip
