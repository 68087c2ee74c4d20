"""Networks of others: importing them, and what can be done with them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..factory.errors import DataError, NNFactoryError, UsageError
from .request import Report, need_torch, silent

if TYPE_CHECKING:
    from ..factory.datasets import Images
    from ..factory.graph.network import Array
    from ..factory.reuse.detection_head import DetectionHead
    from ..factory.reuse.donor import Donor
    from ..factory.reuse.pool import Places

BLOCKS = 4
IMAGES = 256
MEASURES = {"cka": "linear CKA", "r2": "held-out R\u00b2"}  # for people


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorView:
    """What there is to know about an imported network.

    Attributes:
        name: Under which it is known.
        folder: Where it is.
        input_size: Side of its image in pixels.
        colors: "RGB" or "BGR".
        labels: What each output stands for.
        license: Of the weights, "" where it is not known.
        mparams: Parameters, in millions.
        mmacs: Multiply-adds, in millions.
        removable: Channel groups that may be removed.
        cut_points: Where it can be taken apart.
        not_understood: Operators around which nothing is cut, by node.
    """

    name: str
    folder: str
    input_size: int
    colors: str
    labels: tuple[str, ...]
    license: str
    mparams: float
    mmacs: float
    removable: int
    cut_points: int
    not_understood: dict[str, str]


def foreign_network(
    file: Path, *, labels: Path | tuple[str, ...], mean: tuple[float, float, float],
    std: tuple[float, float, float], colors: str = "RGB", license: str = "",
    input_size: int | None = None,
) -> Donor:  # fmt: skip
    """Read a pretrained network from an ONNX file without keeping it.

    Args:
        file: As in :func:`import_network`.
        labels: As there.
        mean: As there.
        std: As there.
        colors: As there.
        license: As there.
        input_size: As there.

    Raises:
        DataError: The file cannot be read, or what was said does not fit it.
    """
    from ..factory.graph.foreign import load_foreign
    from ..factory.reuse.donor import Donor
    from ..factory.reuse.import_card import read_labels

    if not file.is_file():
        raise DataError(f"There is no file {file}.")
    names = labels if isinstance(labels, tuple) else read_labels(labels)
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", file.stem).lstrip("._-") or "network"
    return Donor(
        name=stem, network=load_foreign(file, size=input_size), mean=mean, std=std,
        colors=colors, labels=names, license=license,
    )  # fmt: skip


def import_network(
    file: Path, *, name: str, labels: Path | tuple[str, ...], mean: tuple[float, float, float],
    std: tuple[float, float, float], colors: str = "RGB", license: str = "",
    input_size: int | None = None, head: DetectionHead | None = None, overwrite: bool = False,
) -> DonorView:  # fmt: skip
    """Import a pretrained network from an ONNX file.

    Args:
        file: The ONNX file, of any usual opset.
        name: Under which it is known from now on.
        labels: What each output stands for, in order; or a file with one name a line.
        mean: Per color, of pixels in [0, 1]; what the network was trained with.
        std: The same.
        colors: "RGB" or "BGR".
        license: Of the weights.
        input_size: Side of the image, where the file leaves it open.
        head: Of a detector, what its raw maps are; see :func:`read_import_card`.
        overwrite: Replace a network of that name.

    Raises:
        DataError: The file cannot be read, or what was said does not fit it.
        UsageError: The name is taken.
    """
    from ..factory.reuse.import_card import read_labels
    from ..factory.reuse.store import import_donor

    names = labels if isinstance(labels, tuple) else read_labels(labels)
    _, folder = import_donor(
        file, name=name, labels=names, mean=mean, std=std, colors=colors, license=license,
        input_size=input_size, head=head, overwrite=overwrite,
    )  # fmt: skip
    return _view(folder)


def read_import_card(path: Path) -> dict[str, Any]:
    """What a TOML card says about a network, by the names of :func:`import_network`'s options.

    Raises:
        DataError: The card cannot be read, or holds something else.
    """
    from ..factory.reuse.import_card import read_import_card as read

    return read(path)


def import_torch(
    module: Any, *, name: str, labels: Path | tuple[str, ...],
    mean: tuple[float, float, float], std: tuple[float, float, float], input_size: int,
    state_dict: Mapping[str, Any] | None = None, colors: str = "RGB", license: str = "",
    overwrite: bool = False,
) -> DonorView:  # fmt: skip
    """Import a torch module: exported to ONNX, compared with the module, then imported.

    Args:
        module: A ``torch.nn.Module`` of images (B, 3, S, S) that gives one tensor.
        name: As in :func:`import_network`, as all that follow.
        labels: As there.
        mean: As there.
        std: As there.
        input_size: Side S of the image in pixels.
        state_dict: Weights that are loaded into the module first.
        colors: As there.
        license: As there.
        overwrite: As there.

    Raises:
        MissingExtraError: torch is not installed.
        DataError: The weights do not fit, the module cannot be exported, or what was said does not
            fit it.
        VerificationError: The file computes something else than the module.
        UsageError: The name is taken.
    """
    need_torch("A torch module")
    from ..factory.reuse.training.torch_export import onnx_from_module

    model = onnx_from_module(module, input_size=input_size, state_dict=state_dict)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{type(module).__name__}.onnx"
        file.write_bytes(model)
        return import_network(
            file, name=name, labels=labels, mean=mean, std=std, colors=colors, license=license,
            overwrite=overwrite,
        )  # fmt: skip


def publish_import(
    name_or_path: str | Path, data: Path, *, out_dir: Path | None = None, overwrite: bool = False,
    report: Report = silent,
) -> Path:  # fmt: skip
    """Measure an imported classifier and write it as a module library; the library's folder.

    Its modules are channels inside of blocks. What they are worth is measured by zeroing them, on
    labelled images of some of its classes; nothing is trained.

    Args:
        name_or_path: An imported network, by name or folder.
        data: Labelled images: a folder per class, named as the network's labels are, or any
            format that ``modules check`` reads. The part for testing, else a quarter, only
            measures the whole network.
        out_dir: The library's folder; by default one of the user's own, by the network's name.
        overwrite: Replace a library that is there.
        report: Called with (phase, done, total).

    Raises:
        UnknownNameError: There is no such network.
        DataError: The images do not fit the network, or nothing can be left out of it.
        UsageError: Something else is at the library's place.
    """
    from ..factory.library.store import SHIPPED, user_libraries
    from ..factory.library.writer import check_library_place
    from ..factory.reuse.donor_library import donor_library
    from ..factory.reuse.own_images import read_two_parts
    from ..factory.reuse.store import open_donor

    donor = open_donor(name_or_path)
    if donor.head is not None:
        raise DataError(
            f"'{donor.name}' is a detector; only classifiers become libraries.",
            hints=["nnfactory disassemble cuts classes out of a detector"],
        )
    if out_dir is None and (SHIPPED / donor.name).is_dir():
        raise UsageError(
            f"A shipped library is called '{donor.name}' and would be hidden.",
            hints=["--out DIR puts it elsewhere; build --library DIR opens it there"],
        )
    folder = out_dir or user_libraries() / donor.name
    check_library_place(folder, overwrite=overwrite)
    report("images", 0, 1)
    images = read_two_parts(data, [donor.input_size], (), most=IMAGES)
    donor_library(donor, images, folder, overwrite=overwrite, report=report)
    return folder


def imported() -> dict[str, DonorView | NNFactoryError]:
    """All imported networks by name; of a damaged one the error."""
    from ..factory.reuse.store import donor_folders

    found: dict[str, DonorView | NNFactoryError] = {}
    for name, folder in donor_folders().items():
        try:
            found[name] = _view(folder)
        except NNFactoryError as error:
            found[name] = error
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike networks are at the places where they can be taken apart.

    Attributes:
        networks: Names of the networks.
        places: Per network its tensors, from the image to the features.
        measure: "cka" or "r2".
        values: Of every two places, row after row of all networks, at most 1.
        images: Number of images it was measured on.
    """

    networks: tuple[str, ...]
    places: tuple[tuple[str, ...], ...]
    measure: str
    values: tuple[tuple[float, ...], ...]
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionView:
    """Networks in blocks that correspond.

    Attributes:
        networks: Names of the networks.
        borders: Per network the tensors between which its blocks lie, one more than blocks.
        shares: Per network and block its share of the network's parameters, in [0, 1].
        anchors: Per block the network whose block the others resemble.
        objective: Sum of the similarities to the anchors.
        bound: No partition has a greater one.
        images: Number of images it was measured on.
    """

    networks: tuple[str, ...]
    borders: tuple[tuple[str, ...], ...]
    shares: tuple[tuple[float, ...], ...]
    anchors: tuple[str, ...]
    objective: float
    bound: float
    images: int


def similarity(
    pool: Sequence[str | Path], data: Path, *, images: int = IMAGES, measure: str = "cka",
    report: Report = silent,
) -> Likeness:  # fmt: skip
    """How alike imported networks are on images of yours.

    Args:
        pool: Names or folders of imported networks.
        data: Labelled images, in any format that ``modules check`` reads.
        images: How many of them are looked at.
        measure: "cka" (linear centered kernel alignment), or "r2" (what ridge regression explains
            of one by the other, on images that it was not fitted to, in the mean of both ways).
        report: Called with ("features of NAME", done, total).

    Raises:
        NNFactoryError: A network is not known, or the images cannot be read.
    """
    places, seen, some = _seen(pool, data, images, report)
    rows = [mine[name] for place, mine in zip(places, seen, strict=True) for name in place.tensors]
    found = _matrix(rows, measure)
    return Likeness(
        networks=tuple(place.donor.name for place in places),
        places=tuple(place.tensors for place in places),
        measure=measure,
        values=tuple(tuple(round(float(v), 4) for v in row) for row in found),
        images=len(some),
    )


def partition(
    pool: Sequence[str | Path], data: Path, *, blocks: int = BLOCKS, images: int = IMAGES,
    measure: str = "cka", report: Report = silent,
) -> PartitionView:  # fmt: skip
    """Take imported networks apart into blocks that correspond.

    Args:
        pool: As in :func:`similarity`.
        data: As in :func:`similarity`.
        blocks: How many blocks each network is divided into.
        images: As in :func:`similarity`.
        measure: As in :func:`similarity`.
        report: As in :func:`similarity`.

    Raises:
        NNFactoryError: As :func:`similarity`, or a network has too few cut points.
    """
    import numpy as np

    from ..factory.reuse.joint_partition import partition as best_partition
    from ..factory.reuse.pool import chains_of

    places, seen, some = _seen(pool, data, images, report)
    found = best_partition(chains_of(places), similarities(places, seen, measure), blocks)
    return PartitionView(
        networks=tuple(place.donor.name for place in places),
        borders=tuple(
            tuple(place.tensors[i] for i in cuts)
            for place, cuts in zip(places, found.cuts, strict=True)
        ),
        shares=tuple(
            tuple((np.diff(place.sizes[list(cuts)]) / place.sizes[-1]).round(4).tolist())
            for place, cuts in zip(places, found.cuts, strict=True)
        ),
        anchors=tuple(places[i].donor.name for i in found.anchors),
        objective=found.objective,
        bound=found.bound,
        images=len(some),
    )


def _seen(
    pool: Sequence[str | Path], data: Path, images: int, report: Report
) -> tuple[list[Places], list[dict[str, Array]], Images]:
    """The networks' places, what they make of the images there, and the images of the first."""
    from ..factory.datasets.labelled import read_labelled
    from ..factory.reuse.pool import places_of
    from ..factory.reuse.store import open_donor

    check_pool(pool)
    places = [places_of(open_donor(name)) for name in pool]
    found = read_labelled(data, input_sizes(places), kind="cls", prefer=("train",), most=images)
    seen = features(places, found.images, report)
    return places, seen, found.images[places[0].donor.input_size]


def check_pool(pool: Sequence[str | Path]) -> None:
    """Raise unless a pool names some networks, each once."""
    if len({str(name) for name in pool}) != len(pool) or not pool:
        raise UsageError("Name every network of the pool once.")


def input_sizes(places: Sequence[Places]) -> list[int]:
    """The sides of the images that networks read, each once, the largest first."""
    return sorted({place.donor.input_size for place in places}, reverse=True)


def features(
    places: Sequence[Places], images: Mapping[int, Images], report: Report
) -> list[dict[str, Array]]:
    """What networks make of images at their places, from the cache where it is known."""
    from ..devices.latency_table import cache_folder
    from ..factory.reuse.features import cached_representations

    seen = []
    for number, place in enumerate(places):
        report(f"features of {place.donor.name}", number, len(places))
        pixels = list(images[place.donor.input_size].pixels)
        folder = cache_folder() / "features"
        seen.append(cached_representations(place.donor, place.tensors, pixels, folder))
    return seen


def similarities(
    places: Sequence[Places], seen: Sequence[Mapping[str, Array]], measure: str = "cka"
) -> Array:
    """How alike every two places are, as a partition counts them: one image, then all places."""
    rows = [seen[0][places[0].tensors[0]]]
    for place, mine in zip(places, seen, strict=True):
        rows += [mine[name] for name in place.tensors[1:]]
    return _matrix(rows, measure)


def _matrix(rows: Sequence[Array], measure: str) -> Array:
    from ..factory.reuse.features import one_of_each
    from ..factory.reuse.similarity import cka_matrix, r2_matrix

    if measure not in MEASURES:
        raise UsageError(f"Similarity is measured by {' or '.join(MEASURES)}, got {measure!r}.")
    return r2_matrix(rows) if measure == "r2" else cka_matrix([one_of_each(x) for x in rows])


def _view(folder: Path) -> DonorView:
    from ..factory.reuse.store import read_card

    card = read_card(folder)
    try:
        return DonorView(
            name=card["name"], folder=str(folder), colors=card["colors"],
            labels=tuple(card["labels"]), license=card["license"], **card["facts"],
        )  # fmt: skip
    except TypeError as error:
        raise DataError(f"{folder} is no valid imported network: {error}.") from error
