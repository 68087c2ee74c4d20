"""Folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import UsageError


def check_place(folder: Path, mark: str, what: str, *, overwrite: bool, hint: str) -> None:
    """Raise unless something may be written to ``folder``; only its like is ever replaced.

    Args:
        folder: Where it is to go.
        mark: The file by which such a folder is known.
        what: What such a folder is, for people.
        overwrite: Whether one may be replaced.
        hint: How another place is named.

    Raises:
        UsageError: Something is there that must stay.
    """
    if not folder.exists():
        return
    if not (folder / mark).is_file():
        raise UsageError(f"{folder} exists and is no {what}.", hints=[hint])
    if not overwrite:
        raise UsageError(f"{folder} exists already.", hints=["--overwrite replaces it"])


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder`` that takes its place when the block ends without error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield staging
        staging.chmod(0o755)
        for path in staging.iterdir():
            path.chmod(0o644)
        _move(staging, folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _move(staging: Path, folder: Path) -> None:
    """Put a finished folder in its place; the old one goes last."""
    if not folder.exists():
        staging.replace(folder)
        return
    aside = staging.with_name(staging.name + ".old")
    folder.replace(aside)
    staging.replace(folder)
    shutil.rmtree(aside)
