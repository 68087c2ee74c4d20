"""Imported networks on disk: an ordinary ONNX file and a card that says what it takes and gives."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import platformdirs

from ..errors import DataError, UnknownNameError
from ..graph.costs import op_costs, parameter_count
from ..graph.coupling import coupling
from ..graph.cut_points import cut_points
from ..graph.foreign import load_foreign
from ..graph.network import Network, load_network, model_from_network, tensor_shapes
from ..placing import check_place, written_whole
from ..toml_files import toml_text, tomllib
from .detection_head import DetectionHead, head_from_table
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
    head: DetectionHead | None = None, folder: Path | None = None, overwrite: bool = False,
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
        head: Of a detector, what its raw maps are.
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
        colors=colors, labels=labels, license=license, head=head,
    )  # fmt: skip
    place = folder or user_donors() / name
    check_place(place, CARD, "imported network", overwrite=overwrite, hint="name another --name")
    model = model_from_network(donor.network).SerializeToString()
    card = {key: _plain(getattr(donor, key)) for key in KEYS}
    if head is not None:
        card["head"] = head.table()
    card["source"] = {
        "file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()
    }  # fmt: skip
    card["files"] = {NETWORK: hashlib.sha256(model).hexdigest()}
    card["facts"] = facts_of(donor.network)
    with written_whole(place) as staging:
        (staging / NETWORK).write_bytes(model)
        (staging / CARD).write_text(toml_text(card), encoding="utf-8")
    return donor, place


def facts_of(network: Network) -> dict[str, Any]:
    """What is worth knowing before a network is opened: its size, and where it can be cut."""
    found = coupling(network)
    macs = sum(row.macs for row in op_costs(network, tensor_shapes(network)))
    return {
        "input_size": next(iter(network.inputs.values()))[2],
        "mparams": parameter_count(network) / 1e6,
        "mmacs": macs / 1e6,
        "removable": len(found.removable()),
        "cut_points": len(cut_points(network)),
        "not_understood": dict(found.not_understood),
    }


def read_card(folder: Path) -> dict[str, Any]:
    """What an imported network's card says: :data:`KEYS`, its source, files and facts.

    Raises:
        DataError: The card is missing or malformed.
    """
    try:
        card = tomllib.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _invalid(folder, error) from error
    missing = {*KEYS, "source", "files", "facts"} - set(card)
    if missing:
        raise _invalid(folder, f"{CARD} says nothing of {', '.join(sorted(missing))}")
    return card


def _invalid(folder: Path, reason: object) -> DataError:
    return DataError(
        f"{folder} is no valid imported network: {reason}.", hints=["import the network again"]
    )


def donor_folder(name_or_path: str | Path) -> Path:
    """The folder of an imported network by name; a folder is its own.

    Raises:
        UnknownNameError: There is none.
    """
    folders = donor_folders()
    folder = folders.get(str(name_or_path), Path(name_or_path))
    if not (folder / CARD).is_file():
        raise UnknownNameError.with_suggestion(
            "imported network", str(name_or_path), folders,
            listing="'nnfactory modules import FILE' makes one",
        )  # fmt: skip
    return folder


def open_donor(name_or_path: str | Path) -> Donor:
    """An imported network by name or folder.

    Raises:
        UnknownNameError: There is none.
        DataError: A file is missing, damaged or malformed.
    """
    folder = donor_folder(name_or_path)
    card = read_card(folder)
    try:
        if hashlib.sha256((folder / NETWORK).read_bytes()).hexdigest() != card["files"][NETWORK]:
            raise _invalid(folder, f"{NETWORK} is damaged, its SHA-256 differs from {CARD}")
        return Donor(
            name=card["name"], network=load_network(folder / NETWORK),
            labels=tuple(card["labels"]), mean=tuple(card["mean"]), std=tuple(card["std"]),
            colors=card["colors"], license=card["license"],
            head=head_from_table(card["head"]) if "head" in card else None,
        )  # fmt: skip
    except (OSError, KeyError, TypeError) as error:
        raise _invalid(folder, error) from error


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
