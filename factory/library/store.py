"""Finding, opening and listing module libraries; every file is checked against its hash."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from ..errors import DataError, NNFactoryError, UnknownNameError
from ..graph.half import widened
from ..graph.network import Array, Network, load_network
from ..graph.normalization import norm_nodes
from ..modulation import Modulation, modulation_width
from ..schema import Module, OwnedRange, Slot
from ..toml_files import tomllib
from .library import ModuleLibrary, Prototypes, SizeData, Statistics

SHIPPED = Path(__file__).resolve().parents[1] / "libraries"
CARD = "library.toml"
FILES = ("accuracy.json", "modules.json", "statistics.npz", "supernet.onnx", "values.safetensors")
_UNREADABLE = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, OSError, EOFError,
    SafetensorError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def user_libraries() -> Path:
    """Where ``modules publish`` puts libraries of the user."""
    return Path(platformdirs.user_data_dir("nnfactory", appauthor=False)) / "libraries"


def library_folders() -> dict[str, Path]:
    """Folder of every library by name; the user's own hide shipped ones of the same name."""
    found: dict[str, Path] = {}
    for root in (SHIPPED, user_libraries()):
        if root.is_dir():
            found |= {
                path.name: path
                for path in sorted(root.iterdir())
                if (path / CARD).is_file() and not path.name.startswith(".")
            }
    return found


def open_library(name_or_path: str | Path) -> ModuleLibrary:
    """Open a library by name or folder.

    Raises:
        UnknownNameError: There is none.
        DataError: A file is missing, damaged or malformed.
    """
    folders = library_folders()
    path = folders.get(str(name_or_path), Path(name_or_path))
    if not (path / CARD).is_file():
        raise UnknownNameError.with_suggestion(
            "module library", str(name_or_path), folders, listing="nnfactory modules list"
        )
    return _open(path.resolve(), (path / CARD).stat().st_mtime_ns)


def default_library(kind: str) -> ModuleLibrary:
    """The first library of a kind, shipped ones first.

    Raises:
        UnknownNameError: There is none.
    """
    for path in library_folders().values():
        if read_card(path)[0].get("kind") == kind:
            return open_library(path)
    raise UnknownNameError(
        f"No module library for '{kind}' is installed.",
        hints=["'nnfactory modules list' shows what is", "'nnfactory modules train' makes one"],
    )


def read_card(folder: Path) -> tuple[dict[str, Any], str]:
    """The parsed ``library.toml`` and the identity of the library.

    Raises:
        DataError: The file is missing or malformed.
    """
    try:
        return _read_card(folder, (folder / CARD).stat().st_mtime_ns)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{folder / CARD} cannot be read: {error}.") from error


@cache
def _read_card(folder: Path, _changed_ns: int) -> tuple[dict[str, Any], str]:
    raw = (folder / CARD).read_bytes()
    return tomllib.loads(raw.decode()), hashlib.sha256(raw).hexdigest()[:16]


@cache
def _open(folder: Path, _changed_ns: int) -> ModuleLibrary:
    card, identity = read_card(folder)
    try:
        _check_files(folder, card["files"])
        return _library(folder, card, identity)
    except NNFactoryError:
        raise
    except _UNREADABLE as error:
        raise DataError(f"{folder} is no valid module library: {error!r}.") from error


def _check_files(folder: Path, hashes: dict[str, str]) -> None:
    unknown = sorted(set(FILES) - set(hashes))
    if unknown:
        raise DataError(f"{folder / CARD} holds no SHA-256 of {unknown[0]}.")
    for name, expected in hashes.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise DataError(f"Library file {path} is missing.")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise DataError(
                f"Library file {path} is damaged: its SHA-256 differs from {CARD}.",
                hints=["install the library again, or publish it again"],
            )


def _library(folder: Path, card: dict[str, Any], identity: str) -> ModuleLibrary:
    normalization = card["normalization"]["without_images"]
    if card["kind"] not in ("cls", "det") or normalization not in ("sliced", "stored"):
        raise DataError(f"{folder / CARD}: unknown kind or normalization.")
    values = load_safetensors((folder / "values.safetensors").read_bytes())
    table = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    slots = tuple(slot_from_table(row) for row in table["slots"])
    classes, modules = len(card["classes"]), sum(s.groups for s in slots if s.kind == "block")
    importance = {name: values[f"importance.{name}"] for name in ("full", "half")}
    if any(array.shape != (classes, modules) for array in importance.values()):
        raise DataError(f"{folder}: the importance must have shape ({classes}, {modules}).")
    if [s.kind for s in slots].index("classes") != len(slots) - 1 or slots[-1].groups != classes:
        raise DataError(f"{folder}: the last slot must hold the {classes} classes.")
    network = widened(load_network(folder / "supernet.onnx"))
    sizes = _sizes(folder, card["input"]["sizes"], values)
    if card["input"]["size"] != max(sizes):
        raise DataError(f"{folder / CARD}: input.size must be the largest of input.sizes.")
    blocks = sum(1 for slot in slots if slot.kind == "block")
    for data in sizes.values():
        _check_size(folder, data, network, classes, modules, blocks)
    return ModuleLibrary(
        name=card["name"],
        id=identity,
        kind=card["kind"],
        card=card,
        classes=tuple(card["classes"]),
        wordnet=tuple(card.get("wordnet", ())),
        input_size=card["input"]["size"],
        head_strides=tuple(card["input"].get("head_strides", ())),
        normalization=normalization,
        network=network,
        slots=slots,
        importance=importance,
        sizes=sizes,
        modulation=_modulation(folder, values, network, classes, blocks),
        folder=folder,
        prototypes=_prototypes(folder, values, classes),
    )


def _modulation(
    folder: Path, values: Mapping[str, Array], network: Network, classes: int, blocks: int
) -> Modulation | None:
    if "modulation.classes" not in values:
        return None
    found = Modulation(classes=values["modulation.classes"], widths=values["modulation.widths"])
    width = modulation_width(network)
    if found.classes.shape != (classes, width) or found.widths.shape != (2 * blocks + 1, width):
        raise DataError(f"{folder}: the modulation does not fit the network.")
    return found


def _prototypes(folder: Path, values: Mapping[str, Array], classes: int) -> Prototypes | None:
    if "prototypes.mean" not in values:
        return None
    mean, spread = (values[f"prototypes.{n}"].astype(np.float32) for n in ("mean", "spread"))
    if mean.ndim != 2 or len(mean) != classes or spread.shape != mean.shape[1:]:
        raise DataError(f"{folder}: the prototypes do not fit the {classes} classes.")
    return Prototypes(mean=mean, spread=spread)


def _sizes(folder: Path, sizes: list[int], values: Mapping[str, Array]) -> dict[int, SizeData]:
    """What was measured at every input size.

    ``statistics.npz`` has keys ``size|counts``, and ``size|node|mean`` and ``size|node|std`` as
    float16; ``accuracy.json`` one entry per size.
    """
    accuracy = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))
    with np.load(folder / "statistics.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return {
        size: SizeData(
            curves=values[f"curves.{size}"],
            statistics=_statistics(arrays, f"{size}|"),
            accuracy=accuracy[str(size)],
        )
        for size in sizes
    }


def _statistics(arrays: Mapping[str, Array], prefix: str) -> Statistics:
    mine = {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}
    wide = {key: array.astype(np.float32) for key, array in mine.items() if "|" in key}
    return Statistics(
        counts=mine["counts"].astype(np.int64),
        mean={key[:-5]: array for key, array in wide.items() if key.endswith("|mean")},
        variance={key[:-4]: array**2 for key, array in wide.items() if key.endswith("|std")},
    )


def _check_size(
    folder: Path, data: SizeData, network: Network, classes: int, modules: int, blocks: int
) -> None:
    """Curves, accuracy and the moments of every sampled plan fit the network."""
    if data.curves.shape != (classes, modules + blocks):
        raise DataError(
            f"{folder}: the value curves must have shape ({classes}, {modules + blocks})."
        )
    accuracy = data.accuracy
    if len(accuracy["per_class"]) != classes or len(accuracy["fit"]["coefficients"]) != 7:
        raise DataError(f"{folder}: accuracy.json does not fit the {classes} classes.")
    if len(accuracy["fit"]["spread"]) != 4:
        raise DataError(
            f"{folder}: accuracy.json is of an older nnfactory.",
            hints=["'nnfactory modules publish --overwrite' writes it anew"],
        )
    statistics = data.statistics
    assert statistics is not None
    plans = len(statistics.counts)
    shapes = {
        node.name: (plans, *network.weights[node.input[3]].shape) for node in norm_nodes(network)
    }
    found = [
        {name: array.shape for name, array in moments.items()}
        for moments in (statistics.mean, statistics.variance)
    ]
    if not plans or statistics.counts.shape != (plans, blocks) or found != [shapes, shapes]:
        raise DataError(f"{folder}: statistics.npz does not fit the network.")


def slot_from_table(row: dict[str, Any]) -> Slot:
    """A slot from ``modules.json``."""
    modules = tuple(
        Module(
            slot=row["name"],
            index=index,
            owns=tuple(
                OwnedRange(tensor=str(t), axis=int(a), start=int(i), stop=int(j))
                for t, a, i, j in owned
            ),
            mparams=float(row["mparams"]),
            mmacs=float(row["mmacs"]),
        )
        for index, owned in enumerate(row["owns"])
    )
    return Slot(
        name=row["name"], kind=row["kind"], modules=modules, min_groups=int(row["min_groups"]),
        nodes=tuple(row["nodes"]), gated=tuple(row["gated"]),
        block_params=int(row["block_params"]), stream=row["stream"], branch=row["branch"],
        output=row["output"],
    )  # fmt: skip


def table_from_slot(slot: Slot) -> dict[str, Any]:
    """A slot for ``modules.json``; all modules of a slot cost the same."""
    return {
        "name": slot.name,
        "kind": slot.kind,
        "min_groups": slot.min_groups,
        "block_params": slot.block_params,
        "mparams": slot.modules[0].mparams,
        "mmacs": slot.modules[0].mmacs,
        "nodes": list(slot.nodes),
        "gated": list(slot.gated),
        "stream": slot.stream,
        "branch": slot.branch,
        "output": slot.output,
        "owns": [[[o.tensor, o.axis, o.start, o.stop] for o in m.owns] for m in slot.modules],
    }
