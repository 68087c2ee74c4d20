"""Networks of others: importing them, and what can be done with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..factory.errors import DataError

if TYPE_CHECKING:
    from ..factory.reuse.donor import Donor


@dataclass(frozen=True, slots=True, kw_only=True)
class DonorView:
    """What there is to know about an imported network.

    Attributes:
        name: Under which it is known.
        folder: Where it is.
        input_size: Side of its image in pixels.
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
    labels: tuple[str, ...]
    license: str
    mparams: float
    mmacs: float
    removable: int
    cut_points: int
    not_understood: dict[str, str]


def import_network(
    file: Path, *, name: str, labels: Path | tuple[str, ...], mean: tuple[float, float, float],
    std: tuple[float, float, float], colors: str = "RGB", license: str = "",
    input_size: int | None = None, overwrite: bool = False,
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
        overwrite: Replace a network of that name.

    Raises:
        DataError: The file cannot be read, or what was said does not fit it.
        UsageError: The name is taken.
    """
    from ..factory.reuse.store import import_donor

    names = labels if isinstance(labels, tuple) else _names_in(labels)
    donor, folder = import_donor(
        file, name=name, labels=names, mean=mean, std=std, colors=colors, license=license,
        input_size=input_size, overwrite=overwrite,
    )  # fmt: skip
    return _view(donor, folder)


def imported() -> list[DonorView]:
    """All imported networks.

    Raises:
        DataError: One of them is damaged.
    """
    from ..factory.reuse.store import donor_folders, open_donor

    return [_view(open_donor(folder), folder) for folder in donor_folders().values()]


def _names_in(file: Path) -> tuple[str, ...]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _view(donor: Donor, folder: Path) -> DonorView:
    from ..factory.graph.costs import op_costs, parameter_count
    from ..factory.graph.coupling import coupling
    from ..factory.graph.cut_points import cut_points
    from ..factory.graph.network import tensor_shapes

    network = donor.network
    found = coupling(network)
    return DonorView(
        name=donor.name, folder=str(folder), input_size=donor.input_size, labels=donor.labels,
        license=donor.license, mparams=parameter_count(network) / 1e6,
        mmacs=sum(row.macs for row in op_costs(network, tensor_shapes(network))) / 1e6,
        removable=len(found.removable()), cut_points=len(cut_points(network)),
        not_understood=dict(found.not_understood),
    )  # fmt: skip
