"""How near a component is to the whole network, and what training and scaling change."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from small_inputs import halved, logits, pictures
from small_networks import plain, residual

from nnfactory.factory.reuse.disassembly.calibration import calibrated
from nnfactory.factory.reuse.disassembly.families import anatomy_of, narrowed
from nnfactory.factory.reuse.disassembly.kinds import Classification, Judgement, tensors_of

KIND = Classification()


def test_a_component_is_taught_by_the_whole_network_alone():
    pytest.importorskip("torch")
    from nnfactory.factory.reuse.training.component_finish import taught

    found = anatomy_of(residual())
    shown, fresh = pictures(64), pictures(40)
    wrong = replace(shown, labels=np.zeros(64, np.int64))  # labels are not looked at
    network, _ = narrowed(found, halved(found))
    judged = partial(KIND.judged, KIND.answers(found.network, fresh), images=fresh)
    done = taught(network, found.network, KIND, wrong, judged, epochs=30)
    assert done.parity.passed
    assert done.after.divergence < done.before.divergence
    assert judged(done.network).divergence == pytest.approx(done.after.divergence)
    nothing = taught(found.network, found.network, KIND, shown, judged, epochs=1)
    assert nothing.network is found.network  # nothing is nearer to it than itself


def test_how_sure_a_component_is_does_not_count():
    network, shown = plain(), pictures(40)
    wanted = KIND.answers(network, shown)
    other = replace(network, weights={**network.weights, "fc.b": np.float32([0.3, -0.3, 0.0])})

    def judged(factor: float) -> Judgement:
        rows = {name: np.float32(factor) * other.weights[name] for name in ("fc.w", "fc.b")}
        surer = replace(other, weights={**other.weights, **rows})
        return KIND.judged(wanted, surer, shown)

    assert judged(10**0.5).divergence == pytest.approx(judged(1).divergence, rel=1e-3)
    assert judged(10**0.5).accuracy == judged(1).accuracy
    assert judged(1).divergence > 1e-3


def test_a_component_that_is_too_sure_becomes_less_so():
    """Where labels have nothing to do with images, probabilities become even; answers stay."""
    network, shown = plain(), pictures(60)
    sure = {name: 20 * network.weights[name] for name in ("fc.w", "fc.b")}
    network = replace(network, weights={**network.weights, **sure})
    found = calibrated(network, shown)
    before, after = (logits(each, tensors_of(shown)) for each in (network, found))
    assert (before.argmax(1) == after.argmax(1)).all()
    assert np.abs(after).max() <= 0.11 * np.abs(before).max()
    right = replace(shown, labels=before.argmax(1))  # always right: as sure as factors reach
    surer = logits(calibrated(network, right), tensors_of(shown))
    assert np.abs(surer).max() >= np.abs(before).max()
