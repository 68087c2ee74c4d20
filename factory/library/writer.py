"""Writing a module library to disk, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import save_file

from ..graph.half import halved
from ..graph.network import Array, Network, model_from_network
from ..modulation import Modulation
from ..placing import check_place, written_whole
from ..schema import Slot
from ..toml_files import toml_text
from .library import Prototypes, SizeData
from .store import CARD, table_from_slot


def write_library(
    folder: Path,
    *,
    card: Mapping[str, Any],
    network: Network,
    slots: Sequence[Slot],
    importance: Mapping[str, Array],
    sizes: Mapping[int, SizeData],
    modulation: Modulation | None = None,
    prototypes: Prototypes | None = None,
    overwrite: bool = False,
) -> None:
    """Write every file beside ``folder``, then move the whole into place.

    Args:
        folder: The library's place.
        card: ``library.toml`` without the table of files.
        network: The supernet, normalization unfolded; large weights are kept as float16.
        slots: Its modules.
        importance: See :class:`ModuleLibrary`.
        sizes: What was measured, by input size.
        modulation: See :class:`ModuleLibrary`; kept as float16.
        prototypes: See :class:`ModuleLibrary`; kept as float16.
        overwrite: Replace what is there.

    Raises:
        UsageError: See :func:`check_library_place`.
    """
    check_library_place(folder, overwrite=overwrite)
    with written_whole(folder) as staging:
        model = model_from_network(halved(network))
        onnx.checker.check_model(model, full_check=True)
        (staging / "supernet.onnx").write_bytes(model.SerializeToString())
        _write_json(staging / "modules.json", {"slots": [table_from_slot(slot) for slot in slots]})
        arrays = {f"importance.{k}": np.ascontiguousarray(v) for k, v in importance.items()}
        arrays |= {
            f"curves.{size}": np.ascontiguousarray(data.curves, np.float32)
            for size, data in sizes.items()
        }
        if modulation is not None:
            arrays["modulation.classes"] = np.ascontiguousarray(modulation.classes, np.float16)
            arrays["modulation.widths"] = np.ascontiguousarray(modulation.widths, np.float16)
        if prototypes is not None:
            arrays["prototypes.mean"] = np.ascontiguousarray(prototypes.mean, np.float16)
            arrays["prototypes.spread"] = np.ascontiguousarray(prototypes.spread, np.float32)
        save_file(arrays, staging / "values.safetensors")
        _write_statistics(staging / "statistics.npz", sizes)
        accuracy = {str(size): data.accuracy for size, data in sizes.items()}
        _write_json(staging / "accuracy.json", accuracy)
        files = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(staging.iterdir())
        }
        (staging / CARD).write_text(toml_text({**card, "files": files}), encoding="utf-8")


def check_library_place(folder: Path, *, overwrite: bool) -> None:
    """Raise unless a library may be written to ``folder``; only a library is ever replaced.

    Raises:
        UsageError: Something is there that must stay.
    """
    check_place(folder, CARD, "module library", overwrite=overwrite, hint="name another --out")


def _write_statistics(path: Path, sizes: Mapping[int, SizeData]) -> None:
    """Means and standard deviations as float16: a tenth of a percent is enough for both."""
    arrays: dict[str, Array] = {}
    for size, data in sizes.items():
        assert data.statistics is not None
        arrays[f"{size}|counts"] = data.statistics.counts.astype(np.int16)
        for node, mean in data.statistics.mean.items():
            deviation = np.sqrt(data.statistics.variance[node])
            arrays[f"{size}|{node}|mean"] = mean.astype(np.float16)
            arrays[f"{size}|{node}|std"] = deviation.astype(np.float16)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(table, separators=(",", ":")), encoding="utf-8")
