"""Imported networks on disk: an ordinary ONNX file and a card that says what it takes and gives."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import platformdirs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from ..errors import DataError, UnknownNameError
from ..graph.foreign import load_foreign
from ..graph.network import load_network, model_from_network
from ..library.writer import toml_text
from ..placing import check_place, written_whole
from .donor import Donor

CARD, NETWORK = "donor.toml", "network.onnx"
KEYS = ("name", "labels", "mean", "std", "colors", "license")


def user_donors() -> Path:
    """Where ``modules import`` puts networks."""
    return Path(platformdirs.user_data_dir("nnfactory", appauthor=False)) / "donors"


def donor_folders() -> dict[str, Path]:
    """Folder of every imported network by name."""
    root = user_donors()
    if not root.is_dir():
        return {}
    return {path.name: path for path in sorted(root.iterdir()) if (path / CARD).is_file()}


def import_donor(
    file: Path, *, name: str, labels: tuple[str, ...], mean: tuple[float, float, float],
    std: tuple[float, float, float], colors: str, license: str, input_size: int | None = None,
    folder: Path | None = None, overwrite: bool = False,
) -> tuple[Donor, Path]:  # fmt: skip
    """Read a network of someone else and keep it as one of our own.

    Args:
        file: An ONNX file.
        name: Under which it is known from now on.
        labels: What each output stands for, in order.
        mean: Per color, of pixels in [0, 1].
        std: The same.
        colors: "RGB" or "BGR".
        license: Of the weights, "" where it is not known.
        input_size: Side of the image, where the file leaves it open.
        folder: Where it goes; by default among the user's data.
        overwrite: Replace one of that name.

    Returns:
        The network, and its folder.

    Raises:
        DataError: The file cannot be read, or what was said does not fit it.
        UsageError: Something else is in its place.
    """
    donor = Donor(
        name=name, network=load_foreign(file, size=input_size), mean=mean, std=std,
        colors=colors, labels=labels, license=license,
    )  # fmt: skip
    place = folder or user_donors() / name
    check_place(place, CARD, "imported network", overwrite=overwrite)
    model = model_from_network(donor.network).SerializeToString()
    card = {key: _plain(getattr(donor, key)) for key in KEYS}
    card["source"] = {
        "file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()
    }  # fmt: skip
    card["files"] = {NETWORK: hashlib.sha256(model).hexdigest()}
    with written_whole(place) as staging:
        (staging / NETWORK).write_bytes(model)
        (staging / CARD).write_text(toml_text(card), encoding="utf-8")
    return donor, place


def open_donor(name_or_path: str | Path) -> Donor:
    """An imported network by name or folder.

    Raises:
        UnknownNameError: There is none.
        DataError: A file is missing, damaged or malformed.
    """
    folders = donor_folders()
    folder = folders.get(str(name_or_path), Path(name_or_path))
    if not (folder / CARD).is_file():
        raise UnknownNameError.with_suggestion(
            "imported network", str(name_or_path), folders,
            listing="'nnfactory modules import FILE' makes one",
        )  # fmt: skip
    try:
        card = tomllib.loads((folder / CARD).read_text(encoding="utf-8"))
        model = (folder / NETWORK).read_bytes()
        if hashlib.sha256(model).hexdigest() != card["files"][NETWORK]:
            raise DataError(
                f"{folder / NETWORK} is damaged: its SHA-256 differs from {CARD}.",
                hints=["import the network again"],
            )
        return Donor(
            name=card["name"], network=load_network(folder / NETWORK),
            labels=tuple(card["labels"]), mean=tuple(card["mean"]), std=tuple(card["std"]),
            colors=card["colors"], license=card["license"],
        )  # fmt: skip
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is no valid imported network: {error!r}.") from error


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
