"""A component of a network: what some classes need of it, within limits.

Values of two kinds, and both together, choose three plans of equal cost; each is cut out and
compensated, and images that nothing was fitted to say which one comes closest to the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ...datasets import Images
from ...graph.network import Array, Network
from .choice import Choice, choose, smallest
from .compensation import compensated
from .contributions import EACH, contributions
from .costs import Costs, sizes_of
from .families import Anatomy, narrowed
from .kinds import Judgement, Kind, tensors_of
from .reconstruction import Losses, losses_of
from .relevance import Thresholds, flows, located, losses_by_flow

INPUT_SIZE = "input size"  # what chose the channels where all of them stay
MOMENTS = 300  # images that reconstruction is judged from
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Channels that stay.

    Attributes:
        values: What chose them: "contributions", "reconstruction", "both", "thresholds",
            "forgetting", or "input size" where all of them stay.
        kept: Per family the positions that stay.
        network: The narrow network, its weights as they were.
        channels: Per tensor that lost channels the positions of those that stay.
        choice: The proof; None of what thresholds keep, and where nothing is cut.
        flow: Of what thresholds keep: the share of the classes' outputs that flows through it, in
            the mean over families; else 0.
    """

    values: str
    kept: Mapping[str, Array]
    network: Network
    channels: Mapping[str, Array]
    choice: Choice | None
    flow: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Component:
    """A plan made a network.

    Attributes:
        plan: What stays.
        network: With weights that make up for what is gone.
        judged: On images that nothing was fitted to.
    """

    plan: Plan
    network: Network
    judged: Judgement


def values_of(
    anatomy: Anatomy, kind: Kind, images: Images, *,
    report: Report = lambda phase, done, total: None,
) -> dict[str, dict[str, Losses]]:  # fmt: skip
    """What families lose, by kind of value.

    Args:
        anatomy: A network of the task's classes alone.
        kind: What is asked of it.
        images: In a mixed order.
        report: Called with (phase, done, total).
    """
    moments = tensors_of(images.subset(np.arange(min(MOMENTS, len(images)))))
    by_reconstruction = losses_of(anatomy, moments, report=report)
    flow = flows_of(anatomy, kind, images, report=report)
    both = {}
    for family in anatomy.families:
        losses = by_reconstruction[family.name]
        arriving = flow[family.name].mean(0)[losses.order]
        gone = np.concatenate([[0.0], np.cumsum(arriving[::-1])])[::-1]
        both[family.name] = Losses(order=losses.order, lost=np.sqrt(losses.lost * gone))
    return {
        "contributions": losses_by_flow(flow), "reconstruction": by_reconstruction, "both": both,
    }  # fmt: skip


def flows_of(
    anatomy: Anatomy, kind: Kind, images: Images, *,
    report: Report = lambda phase, done, total: None,
) -> dict[str, Array]:  # fmt: skip
    """Share of every class that flows through every channel of every family, (K, C).

    Args:
        anatomy: The network.
        kind: What is asked of it.
        images: That show the classes.
        report: Called with ("contributions", done, total).
    """
    found = contributions(anatomy, kind.shown(anatomy.network, images, EACH), report=report)
    return flows(anatomy, found, kind.ends(anatomy.network))


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
    choice = choose(anatomy, _rows(anatomy, losses), costs, limits)
    return _plan(anatomy, values, losses, choice)


def smallest_plan(
    anatomy: Anatomy, values: str, losses: Mapping[str, Losses], costs: Mapping[str, Costs],
    kind: str,
) -> Plan:  # fmt: skip
    """The channels that cost least of a kind, whatever is lost.

    Args:
        anatomy: As in :func:`plan_within`, as all but the last.
        values: As there.
        losses: As there.
        costs: As there.
        kind: Of the cost.
    """
    choice = smallest(anatomy, _rows(anatomy, losses), costs, kind)
    return _plan(anatomy, values, losses, choice)


def _rows(anatomy: Anatomy, losses: Mapping[str, Losses]) -> dict[str, Array]:
    """What is lost at each size of every family."""
    return {f.name: losses[f.name].lost[list(sizes_of(f))] for f in anatomy.families}


def _plan(anatomy: Anatomy, values: str, losses: Mapping[str, Losses], choice: Choice) -> Plan:
    kept = {
        family.name: np.sort(losses[family.name].order[: choice.sizes[family.name]])
        for family in anatomy.families
    }
    network, channels = narrowed(anatomy, kept)
    return Plan(values=values, kept=kept, network=network, channels=channels, choice=choice)


def plan_by_thresholds(
    anatomy: Anatomy, kind: Kind, images: Images, thresholds: Thresholds, *,
    report: Report = lambda phase, done, total: None,
) -> Plan:  # fmt: skip
    """The channels that thresholds of contributions keep, as the paper does; streams stay.

    Args:
        anatomy: The network.
        kind: What is asked of it.
        images: That show the classes.
        thresholds: The paper's.
        report: Called with ("contributions", done, total).
    """
    found = contributions(anatomy, kind.shown(anatomy.network, images, EACH), report=report)
    ends = kind.ends(anatomy.network)
    kept = located(anatomy, found, ends, thresholds)
    network, channels = narrowed(anatomy, kept)
    shares = [
        float(rows[:, kept[name]].sum() / rows.sum())
        for name, rows in flows(anatomy, found, ends).items()
        if rows.sum() > 0
    ]
    return Plan(
        values="thresholds", kept=kept, network=network, channels=channels, choice=None,
        flow=float(np.mean(shares)) if shares else 0.0,
    )  # fmt: skip


def component_of(
    anatomy: Anatomy, plan: Plan, fitting: Images, judged: Callable[[Network], Judgement], *,
    report: Report = lambda phase, done, total: None,
) -> Component:  # fmt: skip
    """Make up for what a plan leaves out, and judge the result.

    Args:
        anatomy: The whole network.
        plan: What stays.
        fitting: Images to fit to, in a mixed order.
        judged: What images that nothing is fitted to say of a network.
        report: Called with ("layers", done, total).
    """
    whole = anatomy.network
    network = compensated(whole, plan.network, plan.channels, tensors_of(fitting), report=report)
    return Component(plan=plan, network=network, judged=judged(network))


def uncut(anatomy: Anatomy, judged: Callable[[Network], Judgement]) -> Component:
    """A network of which everything stays: at a smaller input size that may be enough.

    Args:
        anatomy: The network at that size.
        judged: As in :func:`component_of`.
    """
    kept = {family.name: np.arange(len(family.groups)) for family in anatomy.families}
    plan = Plan(values=INPUT_SIZE, kept=kept, network=anatomy.network, channels={}, choice=None)
    return Component(plan=plan, network=plan.network, judged=judged(plan.network))
