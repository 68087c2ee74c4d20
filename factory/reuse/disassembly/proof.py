"""Proof that a cut is exact: the narrow network equals the whole one with channels zeroed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...errors import VerificationError
from ...graph.cut_channels import mask_channels
from ...graph.evaluate import open_model
from ...graph.network import Network, model_from_network
from ...linker import TOLERANCE, proof_inputs
from ...schema import Parity
from .component import Plan
from .families import Anatomy


def prove_cut(anatomy: Anatomy, plan: Plan, size: int) -> Parity:
    """Check, before any weight is fitted, that cutting computes what zeroing does.

    Branches that go as a whole have weights of zero where they end.

    Args:
        anatomy: The whole network.
        plan: What stays.
        size: Side of the image in pixels.

    Raises:
        VerificationError: A difference exceeds the tolerance of 1e-4.
    """
    whole = _silenced(anatomy, plan)
    runs = [open_model(model_from_network(network)) for network in (whole, plan.network)]
    (entry,) = whole.inputs
    images, worst = proof_inputs(size), 0.0
    for image in images:
        wanted, found = (run({entry: image}) for run in runs)
        for name, values in wanted.items():
            scale = max(1.0, float(np.abs(values).max()))
            worst = max(worst, float(np.abs(found[name] - values).max()) / scale)
    parity = Parity(
        a="the whole network with the other channels zeroed", b="the cut before fitting",
        n=len(images), max_abs=worst, tolerance=TOLERANCE,
    )  # fmt: skip
    if not parity.passed:
        raise VerificationError(
            f"'{parity.a}' and '{parity.b}' differ by {worst:.2e}, more than {TOLERANCE:.0e}."
        )
    return parity


def _silenced(anatomy: Anatomy, plan: Plan) -> Network:
    """The whole network in which what the plan leaves out is zero."""
    weights, removed = dict(anatomy.network.weights), []
    for family in anatomy.families:
        stay = set(plan.kept[family.name].tolist())
        if stay:
            removed += [group for i, group in enumerate(family.groups) if i not in stay]
            continue
        (reader,) = family.readers
        for name in anatomy.node(reader).input[1:]:
            weights[name] = np.zeros_like(weights[name])
    return mask_channels(replace(anatomy.network, weights=weights), anatomy.found, removed)
