"""Taking several networks apart into blocks that correspond, all at once: an integer program.

Borders and anchors are chosen together, so the answer is proven; that of steps in turn is not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from ..graph.network import Array
from ..quiet import silenced
from .partition import SLACK, Chain, Partition, alternated, least_slack, objective, size_allowed

SECONDS = 60.0
Term = tuple[int, float]  # a variable and its factor


class _Program:
    """Variables in [0, 1] and rows ``low <= sum <= high``, gathered one by one."""

    def __init__(self) -> None:
        self.gains: list[float] = []
        self.is_integer: list[bool] = []
        self.rows: list[tuple[list[Term], float, float]] = []

    def variables(self, gains: Array, *, integer: bool) -> Array:
        """New variables in the shape of what each gains."""
        start = len(self.gains)
        self.gains += gains.ravel().tolist()
        self.is_integer += [integer] * gains.size
        return np.arange(start, len(self.gains)).reshape(gains.shape)

    def row(self, terms: list[Term], low: float, high: float) -> None:
        """A constraint."""
        self.rows.append((terms, low, high))

    def one_of(self, variables: Array) -> None:
        """Exactly one of these is 1."""
        self.row([(int(v), 1.0) for v in variables.ravel()], 1.0, 1.0)

    def solve(self, seconds: float) -> tuple[Array | None, float]:
        """The best values that were found in time, and what no others exceed."""
        entries = [
            (i, v, factor) for i, (terms, _, _) in enumerate(self.rows) for v, factor in terms
        ]
        rows, columns, factors = zip(*entries, strict=True)
        matrix = coo_array((factors, (rows, columns)), shape=(len(self.rows), len(self.gains)))
        limits = [low for _, low, _ in self.rows], [high for _, _, high in self.rows]
        with silenced():
            found = milp(
                -np.array(self.gains), integrality=np.array(self.is_integer, int),
                bounds=Bounds(0, 1), constraints=LinearConstraint(matrix.tocsr(), *limits),
                options={"time_limit": seconds, "mip_rel_gap": 0.0},
            )  # fmt: skip
        bound = math.inf if found.mip_dual_bound is None else -float(found.mip_dual_bound)
        return found.x, bound


def partition(
    chains: Sequence[Chain], similarity: Array, blocks: int, *, slack: float = SLACK,
    seconds: float = SECONDS,
) -> Partition:  # fmt: skip
    """The best partition, with a bound that no other one exceeds: equal where it is proven.

    With border k of network i at place p (binary), and border k of the anchor of a block at place q
    (binary), what both together contribute is a flow from the one choice to the other, whose
    relaxation is tight where either choice is whole.

    Args:
        chains: As in :func:`.partition.alternated`, as the next three.
        similarity: As there.
        blocks: As there.
        slack: As there.
        seconds: After which the best answer that is known is returned, with its bound.

    Raises:
        DataError: A network has fewer places than blocks.
        SpecError: There is nothing to divide, or into nothing.
    """
    start = alternated(chains, similarity, blocks, slack=slack)
    if blocks == 1:
        return replace(start, bound=start.objective)
    program = _Program()
    own = [size_allowed(c, blocks, max(slack, least_slack(c, blocks))) for c in chains]
    borders = [_borders(program, allowed, blocks) for allowed in own]
    anchors = program.variables(_of_ends(chains, similarity, blocks), integer=True)
    for block in range(blocks):
        program.one_of(anchors[block])
        for border in (block, block + 1):
            if 0 < border < blocks:
                here = [mine[border - 1] for mine in borders]
                _similar(program, chains, similarity, here, anchors[block])
    values, bound = program.solve(seconds)
    if values is None:
        return replace(start, bound=bound)
    cuts = tuple(
        (0, *(max(row, key=lambda place: values[row[place]]) for row in mine), len(chain.rows) - 1)
        for chain, mine in zip(chains, borders, strict=True)
    )
    chosen = tuple(int(values[row].argmax()) for row in anchors)
    reached = objective(chains, similarity, cuts, chosen)
    if reached < start.objective:
        return replace(start, bound=max(bound, start.objective))
    return Partition(cuts=cuts, anchors=chosen, objective=reached, bound=max(bound, reached))


def _of_ends(chains: Sequence[Chain], similarity: Array, blocks: int) -> Array:
    """What the ends of the networks, which are no choice, add to every anchor: (K, N)."""
    gains = np.zeros((blocks, len(chains)))
    for block, end in ((0, 0), (blocks - 1, -1)):
        rows = [int(chain.rows[end]) for chain in chains]
        gains[block] += similarity[np.ix_(rows, rows)].sum(0)
    return gains


def _borders(program: _Program, allowed: Array, blocks: int) -> list[dict[int, int]]:
    """Per border inside a network the places where it may be, each with its variable."""
    last = len(allowed) - 1
    before, after = [{0}], [{last}]
    for _ in range(blocks - 1):
        before.append({q for p in before[-1] for q in np.flatnonzero(allowed[p]).tolist()})
        after.append({p for q in after[-1] for p in np.flatnonzero(allowed[:, q]).tolist()})
    found: list[dict[int, int]] = []
    for border in range(1, blocks):
        places = sorted(before[border] & after[blocks - border])
        variables = program.variables(np.zeros(len(places)), integer=True)
        program.one_of(variables)
        found.append(dict(zip(places, map(int, variables), strict=True)))
    for one, other in itertools.pairwise(found):
        for place, variable in one.items():
            barred = [(v, 1.0) for q, v in other.items() if not allowed[place, q]]
            program.row([(variable, 1.0), *barred], -np.inf, 1.0)
    return found


def _similar(
    program: _Program, chains: Sequence[Chain], similarity: Array, here: list[dict[int, int]],
    anchors: Array,
) -> None:  # fmt: skip
    """What the places of all networks at a border gain by the anchor's place there."""
    choices = [
        (number, place, variable)
        for number, mine in enumerate(here)
        for place, variable in mine.items()
    ]
    is_there = program.variables(np.zeros(len(choices)), integer=False)
    for (_, _, variable), there in zip(choices, is_there, strict=True):
        program.row([(int(there), 1.0), (variable, -1.0)], -np.inf, 0.0)
    for number, anchor in enumerate(anchors):
        at = [int(v) for (n, _, _), v in zip(choices, is_there, strict=True) if n == number]
        program.row([*((v, 1.0) for v in at), (int(anchor), -1.0)], 0.0, 0.0)
    columns = [int(chains[number].rows[place]) for number, place, _ in choices]
    for chain, mine in zip(chains, here, strict=True):
        rows = [int(chain.rows[place]) for place in mine]
        flow = program.variables(similarity[np.ix_(rows, columns)], integer=False)
        for variable, row in zip(mine.values(), flow, strict=True):
            program.row([*((int(v), 1.0) for v in row), (variable, -1.0)], 0.0, 0.0)
        for there, column in zip(is_there, flow.T, strict=True):
            program.row([*((int(v), 1.0) for v in column), (int(there), -1.0)], 0.0, 0.0)
