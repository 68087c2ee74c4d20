"""From a plan to one ordinary, dense, small network: cut, normalize, fold, answer; with proof."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from .errors import DataError, VerificationError
from .graph.cut import cut, mask
from .graph.evaluate import open_at_once
from .graph.network import Array, Network
from .graph.normalization import estimate_moments, fold_norms, with_moments
from .graph.postprocess import with_detections, with_probabilities
from .library.library import CLASSES, NORMALIZATIONS, ModuleLibrary
from .modulation import modulated
from .schema import Parity, Plan
from .stored_moments import stored_moments

PROOF_CELLS = (1, 4)  # pixels a side, of the noise that proofs look at
TOLERANCE = 1e-4
ZEROED = "library with removed channels zeroed"  # names of what is compared
FOLDED = "linked, with normalization folded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """What linking gives.

    Attributes:
        whole: The library's network with the plan's modulation and statistics, before the cut.
        cut: Dense network with raw outputs and normalization unfolded.
        folded: The same with normalization folded into the convolutions.
        network: The folded network with the answer appended; this is what is exported.
    """

    whole: Network
    cut: Network
    folded: Network
    network: Network


def link(library: ModuleLibrary, plan: Plan, *, images: Array | None = None) -> Linked:
    """Cut the modules of a plan out of the library's network.

    Args:
        library: The library that the plan was made for, at any of its input sizes.
        plan: Active modules, classes, input size and normalization.
        images: (B, 3, S, S) in [0, 1]; needed by, and only used for, "reestimated" normalization.

    Raises:
        DataError: The plan belongs to another library or does not fit it, or images are missing.
    """
    if plan.library_id != library.id:
        raise DataError(
            f"The plan was made for library {plan.library!r} {plan.library_id}, "
            f"this is {library.name!r} {library.id}."
        )
    library = library.at(plan.input_size)
    active = _active(library, plan)
    whole = _normalized(library, plan)
    dense = cut(whole, library.slots, active)
    if plan.normalization == "reestimated":
        if images is None:
            raise DataError("Re-estimated normalization needs images of the task.")
        dense = with_moments(dense, estimate_moments(dense, images))
    folded = fold_norms(dense)
    if library.kind == "cls":
        answer = with_probabilities(folded)
    else:
        answer = with_detections(folded, library.head_strides, library.input_size)
    network = replace(answer, name=f"nnfactory-{plan.id}")
    return Linked(whole=whole, cut=dense, folded=folded, network=network)


def prove(library: ModuleLibrary, plan: Plan, linked: Linked) -> tuple[Parity, ...]:
    """Check that linking and folding changed nothing, on random inputs.

    The raw outputs of the folded network are compared with those of the whole library network with
    the channels of the removed modules zeroed. Re-estimated statistics exist only in the cut
    network; there the cut is compared with the statistics as trained on both sides, and folding by
    itself.

    Raises:
        VerificationError: A difference exceeds the tolerance of 1e-4.
    """
    library = library.at(plan.input_size)
    active = _active(library, plan)
    networks = {ZEROED: mask(linked.whole, library.slots, active), FOLDED: linked.folded}
    pairs = [(ZEROED, FOLDED)]
    if plan.normalization == "reestimated":
        networks["linked"] = cut(linked.whole, library.slots, active)
        networks["linked, re-estimated"] = linked.cut
        pairs = [(ZEROED, "linked"), ("linked, re-estimated", FOLDED)]
    inputs = proof_inputs(library.input_size)
    with ThreadPoolExecutor() as pool:  # ONNX Runtime computes without Python's lock
        found = pool.map(lambda network: _run_all(network, inputs), networks.values())
        outputs = dict(zip(networks, found, strict=True))
    for rows in outputs[ZEROED]:
        for name in library.class_slot.gated:
            rows[name] = rows[name][:, list(active[CLASSES])]
    parities = tuple(_parity(a, b, outputs[a], outputs[b]) for a, b in pairs)
    for parity in parities:
        if not parity.passed:
            raise VerificationError(
                f"'{parity.a}' and '{parity.b}' differ by {parity.max_abs:.2e}, more than "
                f"{parity.tolerance:.0e}. The table of modules does not fit the network.",
                hints=[f"publish library '{library.name}' again"],
            )
    return parities


@lru_cache(maxsize=8)
def proof_inputs(size: int) -> Array:
    """Two fixed inputs (2, 1, 3, size, size) in [0, 1]: fine and coarse noise, read-only."""
    rng = np.random.default_rng(0)
    rows = []
    for pixels in PROOF_CELLS:
        cells = max(1, size // pixels)
        coarse = rng.random((3, cells, cells), dtype=np.float32)
        rows.append(np.kron(coarse, np.ones((-(-size // cells),) * 2, np.float32))[:, :size, :size])
    inputs = np.stack(rows)[:, None]
    inputs.flags.writeable = False
    return inputs


def _active(library: ModuleLibrary, plan: Plan) -> dict[str, tuple[int, ...]]:
    """Active modules of all slots, the classes included."""
    unknown = set(plan.active) ^ {slot.name for slot in library.blocks}
    if unknown:
        raise DataError(f"The plan does not fit library '{library.name}': slots {sorted(unknown)}.")
    if plan.normalization not in NORMALIZATIONS:
        raise DataError(
            f"Plan.normalization must be one of {', '.join(NORMALIZATIONS)}, "
            f"got {plan.normalization!r}."
        )
    for slot in library.blocks:
        groups = plan.active[slot.name]
        if len(groups) < slot.min_groups or any(group >= slot.groups for group in groups):
            raise DataError(
                f"The plan does not fit library '{library.name}': '{slot.name}' has "
                f"{slot.groups} modules and keeps at least {slot.min_groups}, got {groups}."
            )
    return {**plan.active, CLASSES: library.class_indices(plan.task)}


def _conditioned(library: ModuleLibrary, plan: Plan) -> Network:
    """The whole network with the modulation that the plan asks for.

    Raises:
        DataError: The plan is modulated and the library holds no modulation.
    """
    if not plan.is_modulated:
        return library.network
    if library.modulation is None:
        raise DataError(f"The plan is modulated, but library '{library.name}' has no modulation.")
    features = library.plan_features(plan.counts)
    classes = library.class_indices(plan.task)
    return modulated(library.network, library.modulation, classes, features)


def _normalized(library: ModuleLibrary, plan: Plan) -> Network:
    """The whole network with the modulation and the statistics of the plan, before the cut."""
    network = _conditioned(library, plan)
    if plan.normalization != "stored":
        return network
    return with_moments(network, stored_moments(library, plan.counts))


def _run_all(network: Network, inputs: Array) -> list[dict[str, Array]]:
    run = open_at_once(network)
    (name,) = network.inputs
    return [run({name: image}) for image in inputs]


def _parity(a: str, b: str, left: list[dict[str, Array]], right: list[dict[str, Array]]) -> Parity:
    gaps = [np.abs(x[name] - y[name]).max() for x, y in zip(left, right, strict=True) for name in x]
    worst = float(np.max(gaps))  # unlike max(), NaN wherever there is one
    return Parity(a=a, b=b, n=len(left), max_abs=worst, tolerance=TOLERANCE)
