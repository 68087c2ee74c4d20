"""Probabilities of a component that fit images which nothing was fitted to.

Source:
    Temperature scaling, Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...datasets import Images
from ...graph.network import Network
from ..head import sharpened
from .kinds import FACTORS, logits_of, tensors_of


def calibrated(network: Network, images: Images) -> Network:
    """A classifier whose last layer is scaled so that the labels of images are likeliest.

    Args:
        network: It ends in a linear layer, whose outputs are the logits.
        images: Labelled, at its input size.
    """
    last = network.nodes[-1]
    _, factor = sharpened(logits_of(network, tensors_of(images)), images.labels, FACTORS)
    scaled = {name: network.weights[name] * np.float32(factor) for name in last.input[1:]}
    return replace(network, weights={**network.weights, **scaled})
