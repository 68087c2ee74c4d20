"""A component of a network: what some classes need of it, within limits.

Values of two kinds, and both together, choose three plans of equal cost; each is cut out and
compensated, and images that nothing was fitted to say which one comes closest to the whole network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ...graph.evaluate import open_model
from ...graph.network import Array, Network, model_from_network
from .choice import Choice, choose
from .compensation import compensated
from .contributions import EACH, contributions
from .costs import Costs, sizes_of
from .families import Anatomy, narrowed
from .reconstruction import Losses, losses_of
from .relevance import flows, losses_by_flow

MOMENTS = 300  # images that reconstruction is judged from
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Channels that stay.

    Attributes:
        values: What chose them: "contributions", "reconstruction" or "both".
        kept: Per family the positions that stay.
        network: The narrow network, its weights as they were.
        channels: Per tensor that lost channels the positions of those that stay.
        choice: The proof; None of what thresholds keep.
    """

    values: str
    kept: Mapping[str, Array]
    network: Network
    channels: Mapping[str, Array]
    choice: Choice | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Component:
    """A plan made a network.

    Attributes:
        plan: What stays.
        network: With weights that make up for what is gone.
        divergence: Mean Kullback-Leibler divergence of the whole network's probabilities from its
            own, on images that nothing was fitted to, in nats.
        accuracy: On the same images, in [0, 1].
    """

    plan: Plan
    network: Network
    divergence: float
    accuracy: float


def values_of(
    anatomy: Anatomy, images: Sequence[Array], labels: Array, *,
    report: Report = lambda phase, done, total: None,
) -> dict[str, dict[str, Losses]]:  # fmt: skip
    """What families lose, by kind of value.

    Args:
        anatomy: A classifier of the task's classes alone.
        images: As it reads them.
        labels: Of these, (N,).
        report: Called with (phase, done, total).
    """
    by_reconstruction = losses_of(anatomy, images[:MOMENTS], report=report)
    confident = most_confident(anatomy.network, images, labels, EACH)
    found = contributions(anatomy, confident, report=report)
    flow = flows(anatomy, found, {row: row for row in range(len(confident))})
    both = {}
    for family in anatomy.families:
        losses = by_reconstruction[family.name]
        arriving = flow[family.name].mean(0)[losses.order]
        gone = np.concatenate([[0.0], np.cumsum(arriving[::-1])])[::-1]
        both[family.name] = Losses(order=losses.order, lost=np.sqrt(losses.lost * gone))
    return {
        "contributions": losses_by_flow(flow), "reconstruction": by_reconstruction, "both": both,
    }  # fmt: skip


def most_confident(
    network: Network, images: Sequence[Array], labels: Array, each: int
) -> list[list[Array]]:
    """Per class the images that the network is most certain of."""
    logits = logits_of(network, images)
    chosen = []
    for label in range(logits.shape[1]):
        mine = np.flatnonzero(labels == label)
        order = mine[np.argsort(-logits[mine, label], kind="stable")]
        chosen.append([images[i] for i in order[:each]])
    return chosen


def plan_within(
    anatomy: Anatomy, values: str, losses: Mapping[str, Losses], costs: Mapping[str, Costs],
    limits: Mapping[str, float],
) -> Plan:  # fmt: skip
    """The channels that lose least within limits.

    Args:
        anatomy: The network.
        values: What the losses are.
        losses: Per family.
        costs: By kind.
        limits: By kind.

    Raises:
        BudgetError: No choice keeps them.
    """
    rows = {f.name: losses[f.name].lost[list(sizes_of(f))] for f in anatomy.families}
    choice = choose(anatomy, rows, costs, limits)
    kept = {
        family.name: np.sort(losses[family.name].order[: choice.sizes[family.name]])
        for family in anatomy.families
    }
    network, channels = narrowed(anatomy, kept)
    return Plan(values=values, kept=kept, network=network, channels=channels, choice=choice)


def component_of(
    anatomy: Anatomy, plan: Plan, fitting: Sequence[Array], judging: Sequence[Array],
    labels: Array, *, report: Report = lambda phase, done, total: None,
) -> Component:  # fmt: skip
    """Make up for what a plan leaves out, and judge the result.

    Args:
        anatomy: The whole network.
        plan: What stays.
        fitting: Images to fit to.
        judging: Others.
        labels: Of the latter.
        report: Called with ("layers", done, total).
    """
    network = compensated(anatomy.network, plan.network, plan.channels, fitting, report=report)
    wanted, found = logits_of(anatomy.network, judging), logits_of(network, judging)
    return Component(
        plan=plan, network=network, divergence=divergence(wanted, found),
        accuracy=float((found.argmax(1) == labels).mean()),
    )  # fmt: skip


def divergence(wanted: Array, found: Array) -> float:
    """Mean Kullback-Leibler divergence of probabilities, from logits (N, K), in nats."""
    p, q = (_log_probabilities(logits) for logits in (wanted, found))
    return float((np.exp(p) * (p - q)).sum(1).mean())


def logits_of(network: Network, images: Sequence[Array]) -> Array:
    """Logits (N, K) of images, computed on all cores."""
    run = open_model(model_from_network(network))
    ((entry,), (out,)) = network.inputs, network.outputs
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        return np.concatenate(list(workers.map(lambda image: run({entry: image})[out], images)))


def _log_probabilities(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
