"""Where benchmarks find their data, and how they write their results."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import click
import numpy
import onnxruntime

from nnfactory.devices.conditions import cpu_name

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"

data_option = click.option(
    "--data", "data_dir", type=click.Path(path_type=Path), envvar="NNFACTORY_DATA",
    default=REPOSITORY.parent / "shared" / "data", help="Data folder [env: NNFACTORY_DATA].",
)  # fmt: skip


def need_data(folder: Path) -> Path:
    """The folder, or an exit that says what is missing."""
    if not folder.is_dir():
        raise click.ClickException(f"There is no data folder {folder}; pass --data DIR.")
    return folder


def machine() -> dict[str, object]:
    """The machine and the software of a result."""
    return {
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "software": f"python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, "
        f"numpy {numpy.__version__}",
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def read_rows(name: str) -> list[dict[str, str]]:
    """The rows of ``results/<name>.csv`` without its comments; none if there is no such file."""
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def write_rows(
    name: str, rows: Sequence[Mapping[str, object]], *, replace: Sequence[str] = ()
) -> Path:
    """Write ``results/<name>.csv``; every row ends with machine, software and date.

    Args:
        name: Of the file.
        rows: With the same keys.
        replace: Columns that say which older rows these replace; the others stay. Without any,
            all are replaced.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    full: list[Mapping[str, object]] = [{**row, **machine()} for row in rows]
    if replace and path.is_file():
        measured = {tuple(str(row[column]) for column in replace) for row in full}
        old = [row for row in read_rows(name) if row.keys() == full[0].keys()]
        kept = [row for row in old if tuple(row[column] for column in replace) not in measured]
        full = sorted([*kept, *full], key=lambda row: tuple(str(row[c]) for c in replace))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(full[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(full)
    return path
