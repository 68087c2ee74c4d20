"""An imported classifier as a module library: measured on labelled images, without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..accuracy_measurement import measure_accuracy, tensor_from_pixels
from ..datasets import DataSet
from ..graph.cut import mask
from ..graph.evaluate import open_model
from ..graph.network import Array, Network, model_from_network
from ..library.library import ModuleLibrary, SizeData, Statistics
from ..library.writer import write_library
from ..schema import Slot
from .donor import Donor
from .donor_slots import library_network, slots_of
from .own_images import TwoParts, balanced_order

CURVE_IMAGES = 256  # that the values are measured on
PAIRS = 80  # of plan and accuracy, for the estimate
MOST_CUT = 0.6  # of the latency, in these plans
Report = Callable[[str, int, int], None]


def donor_library(
    donor: Donor, images: TwoParts, folder: Path, *, overwrite: bool = False,
    report: Report = lambda phase, done, total: None,
) -> None:  # fmt: skip
    """Measure an imported classifier and write it as a library of modules.

    Half of the images to fit to say what modules contribute and are worth; on the other half
    plans are measured for the estimate of the accuracy.

    Args:
        donor: A classifier whose labels name the images' classes.
        images: Of some of its classes, at its input size.
        folder: Where the library goes.
        overwrite: Replace a library that is there.
        report: Called with (phase, done, total).

    Raises:
        DataError: A class is none of the donor's, or nothing can be left out of it.
        UsageError: Something else is at ``folder``.
    """
    from ..supernet import measurements as measure

    data = _parts(images, donor.input_size)
    network = library_network(donor, donor.outputs_of(images.classes))
    some = data.train.subset(balanced_order(data.train.labels, 1)[:CURVE_IMAGES])
    tensors = [tensor_from_pixels(image[None]) for image in some.pixels]
    network, slots = slots_of(network, tensors)
    curves = curves_of(network, slots, tensors, some.labels, report)
    draft = _draft(donor, images, network, slots, curves, folder)
    draft = measure.with_accuracy(draft, {donor.input_size: data}, PAIRS, report, _little_cut)
    report("test images", 0, 1)
    card = {**draft.card, "metric": _metric(draft, data)}
    write_library(
        folder, card=card, network=network, slots=slots, importance=draft.importance,
        sizes=draft.sizes, overwrite=overwrite,
    )  # fmt: skip


def _little_cut(drawn: float) -> float:
    """Mostly near the whole: what was not trained to be cut soon is no better than chance."""
    return 1 - MOST_CUT * drawn**2


def _parts(images: TwoParts, size: int) -> DataSet:
    """Images to measure values, plans and the whole on."""
    mine = images.training[size]
    order = balanced_order(mine.labels, 0)
    count = len(images.classes)  # of each class one, then another: taken in turns
    turns = (np.arange(len(order)) // count) % 2 == 0
    return DataSet(
        classes=images.classes, wordnet=(), train=mine.subset(order[turns]),
        validation=mine.subset(order[~turns]), test=images.measuring[size],
    )  # fmt: skip


def curves_of(
    network: Network, slots: Sequence[Slot], tensors: Sequence[Array], labels: Array,
    report: Report = lambda phase, done, total: None,
) -> Array:  # fmt: skip
    """Fall of the loss of each class when a slot grows, all others whole: (K, sum of (groups + 1)).

    Noise is taken out by letting no curve fall.

    Args:
        network: The whole network.
        slots: Its slots, the classes last.
        tensors: Images (1, 3, S, S) in [0, 1].
        labels: Of these, (N,).
        report: Called with ("values", done, total).
    """
    whole = _class_losses(network, tensors, labels)
    blocks = [replace(slot, branch=slot.gated[0]) for slot in slots if slot.kind == "block"]
    total = sum(slot.groups for slot in blocks)
    rows, done = [], 0
    for slot in blocks:
        losses = []
        for count in range(slot.groups):
            losses.append(
                _class_losses(mask(network, [slot], {slot.name: range(count)}), tensors, labels)
            )
            done += 1
            report("values", done, total)
        fall = losses[0] - np.array([*losses, whole])
        rows.append(np.maximum.accumulate(fall, 0))
    return np.concatenate(rows).T.astype(np.float32)


def _class_losses(network: Network, tensors: Sequence[Array], labels: Array) -> Array:
    """Mean cross-entropy of the images of each class, (K,)."""
    run = open_model(model_from_network(network))
    ((entry,), (out,)) = network.inputs, network.outputs
    with ThreadPoolExecutor() as workers:
        logits = np.concatenate(
            list(workers.map(lambda tensor: run({entry: tensor})[out], tensors))
        ).astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    return np.array([losses[labels == c].mean() for c in range(logits.shape[1])])


def _draft(
    donor: Donor, images: TwoParts, network: Network, slots: tuple[Slot, ...], curves: Array,
    folder: Path,
) -> ModuleLibrary:  # fmt: skip
    """The library in memory, before plans were measured."""
    blocks = [slot for slot in slots if slot.kind == "block"]
    ends = np.cumsum([slot.groups + 1 for slot in blocks])
    each = np.concatenate([np.diff(part) for part in np.split(curves, ends[:-1], 1)], 1)
    size = donor.input_size
    statistics = Statistics(
        counts=np.array([[slot.groups for slot in blocks]]), mean={}, variance={}
    )
    return ModuleLibrary(
        name=folder.name, id="draft", kind="cls", card=_card(donor, images, folder.name),
        classes=images.classes, wordnet=(), input_size=size, head_strides=(),
        normalization="sliced", network=network, slots=slots,
        importance={"full": each, "half": each},
        sizes={size: SizeData(curves=curves, statistics=statistics, accuracy={})}, modulation=None,
        folder=folder,
    )  # fmt: skip


def _card(donor: Donor, images: TwoParts, name: str) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": name,
        "title": f"the imported network '{donor.name}'",
        "kind": "cls",
        "classes": list(images.classes),
        "wordnet": [],
        "input": {
            "size": donor.input_size, "sizes": [donor.input_size], "color": "RGB",
            "range": [0.0, 1.0], "resize": "center-crop", "head_strides": [],
        },
        "data": {"name": "not stated", "origin": "not stated", "license": "not stated"},
        "weights": {"license": donor.license or "not stated"},
        "values": {"source": "shared curves", "validation": {}},
        "normalization": {"mode": "sliced", "without_images": "sliced", "validation": {}},
        "statistics": {},
        "modulation": {"used": False, "validation": {}},
        "training": {"compute": "not stated", "hours": 0.0, "recipe": {"name": "imported"}},
    }  # fmt: skip


def _metric(library: ModuleLibrary, data: DataSet) -> Mapping[str, Any]:
    """Accuracy of the whole on the test images, which nothing was chosen on."""
    from ..supernet.measurements import full_network

    found = measure_accuracy(full_network(library, data.train), data.test, len(library.classes))
    return {
        "name": "top-1", "split": "test", "value": round(found.value, 4),
        "low": round(found.low, 4), "high": round(found.high, 4), "level": found.level,
        "n": found.n,
    }  # fmt: skip
