"""Classes that are forgotten, and those that are none of the others."""

from __future__ import annotations

import numpy as np
import pytest
from small_inputs import images
from small_networks import CLASSES, plain

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.reuse.disassembly.forgetting import (
    SELECTIVE,
    losses_of_forgetting,
    readout,
)
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.rejection import rejecting_network


def test_what_is_better_forgotten_goes_first():
    kept = {"f": np.array([[0.5, 0.1, 0.3], [0.5, 0.1, 0.3]])}
    losses = losses_of_forgetting(kept, {"f": np.array([[0.1, 0.6, 0.3]])})["f"]
    assert losses.order.tolist() == [0, 2, 1]
    assert losses.lost[-1] == pytest.approx(0)
    assert losses.lost[2] == pytest.approx(0.1 - 0.6 / SELECTIVE)  # it is better gone
    assert losses.lost[2] < 0


def test_what_a_linear_layer_still_finds():
    network = plain()
    shows = np.arange(80) % 2 == 1
    bright = [image * np.float32(1 + y) for image, y in zip(images(80), shows, strict=True)]
    assert readout(network, (bright[:40], shows[:40]), (bright[40:], shows[40:])) > 0.9
    alike = images(80)
    assert 0.2 < readout(network, (alike[:40], shows[:40]), (alike[40:], shows[40:])) < 0.8


def test_a_rejecting_row_stands_for_all_other_classes():
    """Where there is only one other class it is that one's row."""
    network = plain()
    donor = Donor(
        name="plain", network=network, mean=(0.0,) * 3, std=(1.0,) * 3,
        labels=tuple(f"class {i}" for i in range(CLASSES)),
    )  # fmt: skip
    shown = images(60)
    rejecting = rejecting_network(donor, [2, 0], shown)
    for image in images(4, 3):
        (wanted,) = run_network(network, {"images": image}).values()
        (found,) = run_network(rejecting, {"images": image}).values()
        assert found[0, :2] == pytest.approx(wanted[0, [2, 0]], abs=1e-4)
        assert found[0, 2] == pytest.approx(wanted[0, 1], abs=0.02)
    with pytest.raises(DataError, match="no class besides"):
        rejecting_network(donor, range(CLASSES), shown)
