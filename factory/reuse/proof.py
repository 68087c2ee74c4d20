"""Proof that a reassembled network is its donors' blocks: parts one by one against the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import VerificationError
from ..graph.evaluate import open_model, run_network
from ..graph.network import Array, Network, model_from_network, tensor_shapes
from ..linker import TOLERANCE, proof_inputs
from ..schema import Parity
from .donor import Donor
from .pool import Pool
from .reassembly import Reassembled


def prove(pool: Pool, made: Reassembled, network: Network) -> tuple[Parity, ...]:
    """Check, on four images, that blocks are what their donors compute, and the whole is its parts.

    Args:
        pool: Whose blocks it has.
        made: The parts.
        network: What :func:`answering` made of them.

    Raises:
        VerificationError: A difference exceeds the tolerance of 1e-4.
    """
    first = pool.places[made.way.blocks[0]].donor
    images = np.rint(proof_inputs(first.input_size) * 255).astype(np.uint8)
    pixels = [image[0].transpose(1, 2, 0) for image in images]
    parities = (_of_blocks(pool, made, pixels), _of_whole(made, first, network, pixels))
    for parity in parities:
        if not parity.passed:
            raise VerificationError(
                f"'{parity.a}' and '{parity.b}' differ by {parity.max_abs:.2e}, more than "
                f"{parity.tolerance:.0e}."
            )
    return parities


def _of_blocks(pool: Pool, made: Reassembled, pixels: Sequence[Array]) -> Parity:
    """Every block for its own donor's input against the donor's own output there."""
    worst = 0.0
    for stage, donor_index in enumerate(made.way.blocks):
        donor, block = pool.places[donor_index].donor, pool.blocks[stage][donor_index]
        ((entry,), (out,)) = block.inputs, block.outputs
        shapes = tensor_shapes(donor.network)
        tapped = {name: shapes[name] for name in (entry, out) if name not in donor.network.inputs}
        run = open_model(model_from_network(replace(donor.network, outputs=tapped)))
        for image in pixels:
            given = {donor.input_name: donor.tensor(image)}
            donors = {**given, **run(given)}
            found = run_network(block, {entry: donors[entry]})[out]
            scale = max(1.0, float(np.abs(donors[out]).max()))
            worst = max(worst, float(np.abs(found - donors[out]).max()) / scale)
    return _parity("donors at their cuts", "their blocks", len(pixels), worst)


def _of_whole(made: Reassembled, first: Donor, network: Network, pixels: Sequence[Array]) -> Parity:
    """Probabilities of the parts one after the other against those of the whole network."""
    (name,) = network.inputs
    (out,) = network.outputs
    worst = 0.0
    for image in pixels:
        tensor = first.tensor(image)
        for part in made.parts:
            ((entry,), (end,)) = part.inputs, part.outputs
            tensor = run_network(part, {entry: tensor})[end]
        powers = np.exp(tensor - tensor.max())
        planes = image.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
        found = run_network(network, {name: planes})[out]
        worst = max(worst, float(np.abs(found - powers / powers.sum()).max()))
    return _parity("parts one after the other", "linked", len(pixels), worst)


def _parity(a: str, b: str, n: int, worst: float) -> Parity:
    return Parity(a=a, b=b, n=n, max_abs=worst, tolerance=TOLERANCE)
