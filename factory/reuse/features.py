"""What networks make of images at the places where they can be taken apart."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..graph.evaluate import Run, open_model
from ..graph.network import Array, model_from_network, tensor_shapes
from .donor import Donor

GRID = 4  # cells per side; what is compared of two networks lies in the same cell
CELLS = 4  # of an image that are looked at
MOST_BYTES = 2 << 30  # of what is kept of earlier times


def tapped(donor: Donor, tensors: Sequence[str]) -> Run:
    """The donor's network as a function whose outputs are these tensors."""
    shapes = tensor_shapes(donor.network)
    network = replace(donor.network, outputs={name: shapes[name] for name in tensors})
    return open_model(model_from_network(network))


def representations(
    donor: Donor, tensors: Sequence[str], pixels: Sequence[Array], *, seed: int = 0
) -> dict[str, Array]:
    """Rows (images * 4, C) of every tensor: means over cells of a grid that is laid over the image.

    Which four of the sixteen cells are looked at is drawn per image and the same for all networks,
    so rows of different networks belong together.

    Args:
        donor: The network.
        tensors: (1, C, H, W) or (1, F).
        pixels: Images (H, W, 3), uint8 RGB.
        seed: Of the cells.
    """
    run = tapped(donor, tensors)
    cells = drawn_cells(len(pixels), seed)
    rows: dict[str, list[Array]] = {name: [] for name in tensors}
    for image, mine in zip(pixels, cells, strict=True):
        found = run({donor.input_name: donor.tensor(image)})
        for name in tensors:
            rows[name].append(cell_means(found[name][0], mine))
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def cached_representations(
    donor: Donor, tensors: Sequence[str], pixels: Sequence[Array], folder: Path,
    most_bytes: int = MOST_BYTES,
) -> dict[str, Array]:  # fmt: skip
    """The same from a file of an earlier time, if network, tensors and images are the same.

    Args:
        donor: The network.
        tensors: As in :func:`representations`.
        pixels: As in :func:`representations`.
        folder: Where the files are.
        most_bytes: Of all files; those that were used longest ago make room for a new one.
    """
    digest = hashlib.sha256(model_from_network(donor.network).SerializeToString())
    said = (GRID, CELLS, donor.mean, donor.std, donor.colors, list(tensors))
    digest.update(repr(said).encode())
    for image in pixels:
        digest.update(image.tobytes())
    path = folder / f"{digest.hexdigest()[:32]}.safetensors"
    with contextlib.suppress(OSError, SafetensorError):
        known = dict(load_file(path))
        with contextlib.suppress(OSError):  # a folder that cannot be written to, or a file gone
            os.utime(path)
        return known
    found = representations(donor, tensors, pixels)
    folder.mkdir(parents=True, exist_ok=True)
    staging = path.with_suffix(f".{os.getpid()}")
    save_file({name: np.ascontiguousarray(rows) for name, rows in found.items()}, staging)
    staging.replace(path)
    _make_room(folder, path, most_bytes)
    return found


def _make_room(folder: Path, newest: Path, most_bytes: int) -> None:
    """Remove the files that were used longest ago, but not the newest one."""
    known = []
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(OSError):  # another process makes room, too
            known.append((path == newest, path.stat().st_mtime, path.stat().st_size, path))
    room = most_bytes
    for is_newest, _, size, path in sorted(known, reverse=True):
        room -= size
        if room < 0 and not is_newest:
            path.unlink(missing_ok=True)


def one_of_each(rows: Array) -> Array:
    """One row of every image (N, C), of :func:`representations`: those of one image are alike.

    So they must not count as different ones where likeness is judged without bias.
    """
    return rows[::CELLS]


def drawn_cells(images: int, seed: int) -> Array:
    """Cells (images, 4) as numbers from 0 to 15, none twice in an image."""
    rng = np.random.default_rng(seed)
    return np.argsort(rng.random((images, GRID * GRID)), 1)[:, :CELLS]


def cell_means(tensor: Array, cells: Array) -> Array:
    """Means (cells, C) of a tensor (C, H, W) over cells of the grid; of a vector (F,) itself.

    Where the tensor is coarser than the grid, a cell takes the position that covers its middle.
    """
    if tensor.ndim == 1:
        return np.repeat(tensor[None], len(cells), 0)
    height, width = tensor.shape[1:]
    rows = []
    for cell in cells:
        top, bottom = _span(int(cell) // GRID, height)
        left, right = _span(int(cell) % GRID, width)
        rows.append(tensor[:, top:bottom, left:right].mean((1, 2)))
    return np.stack(rows)


def _span(cell: int, length: int) -> tuple[int, int]:
    """Positions of a cell along an axis of some length."""
    if length < GRID:
        middle = int((cell + 0.5) * length / GRID)
        return middle, middle + 1
    return cell * length // GRID, (cell + 1) * length // GRID
