"""One more logit of a classifier of some classes: the image shows none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import DataError
from ..graph.evaluate import open_model
from ..graph.network import Array, Network, model_from_network, tensor_shapes
from .donor import Donor
from .donor_slots import task_network
from .regression import ridge

RIDGE = 1e-3  # as a share of the mean variance of a feature
NONE = "none of these"  # what the class is called


def rejecting_network(donor: Donor, outputs: Sequence[int], images: Sequence[Array]) -> Network:
    """A donor's logits of some of its outputs, and one for everything else that it knows.

    The probability of all other classes together is that of a logit which is the logarithm of the
    sum of their exponentials. It is no linear function of the features; the row that comes nearest
    to it on images, in the sense of least squares, is taken.

    Args:
        donor: A classifier that ends in a linear layer.
        outputs: Positions of the classes among its outputs.
        images: Tensors (1, 3, S, S) in [0, 1], of these classes and of others.

    Raises:
        DataError: It knows no other class, or see :func:`task_network`.
    """
    others = [i for i in range(len(donor.labels)) if i not in set(outputs)]
    if not others:
        raise DataError(f"'{donor.name}' knows no class besides these: nothing can be rejected.")
    whole, network = task_network(donor, range(len(donor.labels))), task_network(donor, outputs)
    last, ((logits, _),) = network.nodes[-1], network.outputs.items()
    features, rows = _seen(whole, last.input[0], logits, images)
    rest = rows[:, others]
    highest = rest.max(1, keepdims=True)
    wanted = highest[:, 0] + np.log(np.exp(rest - highest).sum(1))
    if len(last.input) < 3:
        raise DataError(f"The linear layer of '{donor.name}' has no bias, which rejection needs.")
    weights = dict(network.weights)
    for name, row in zip(last.input[1:], ridge(features, wanted[:, None], RIDGE), strict=True):
        weights[name] = np.concatenate([weights[name], row.astype(np.float32)])
    return replace(network, weights=weights, outputs={logits: (1, len(outputs) + 1)})


def _seen(
    network: Network, features: str, logits: str, images: Sequence[Array]
) -> tuple[Array, Array]:
    """Features (N, F) before the last layer, and logits (N, K)."""
    shapes = tensor_shapes(network)
    tapped = replace(network, outputs={name: shapes[name] for name in (features, logits)})
    run, (entry,) = open_model(model_from_network(tapped)), network.inputs
    rows = [run({entry: image}) for image in images]
    mine, theirs = (
        np.concatenate([row[name] for row in rows]).astype(np.float64)
        for name in (features, logits)
    )
    return mine, theirs
