"""How the exact choice scales with the number of blocks.

    python benchmarks/assembler_scale.py [--seeds N]

Writes ``results/assembler_scale.csv``. Synthetic libraries of 10 to 1,000 blocks with 32 groups
each: a block that runs costs 20 us at once and 2 to 9 us a group, its values fall off like those of
a trained one, and its share of the whole value is random. The budget is a third of the latency of
the whole. Seconds are medians over seeds, on one thread; the gap is what the solver proves.
"""

from __future__ import annotations

import statistics
import time

import click
import numpy as np
from results_file import write_rows

from nnfactory.factory.assembler import knapsack
from nnfactory.factory.assembler.assemble import MOST_BLOCKS
from nnfactory.factory.assembler.program import Row, solve_program
from nnfactory.factory.assembler.values import SCALE

BLOCKS = (10, 20, 40, 100, 300, 1000)
GROUPS = 32
Tables = dict[str, tuple[int, ...]]


@click.command()
@click.option("--seeds", default=5, show_default=True, help="Synthetic libraries per size.")
def main(seeds: int) -> None:
    """Measure the time to a proven optimum."""
    solve_program({"warm": (0, 1)}, {"warm": 0}, [])
    rows = []
    for blocks in BLOCKS:
        found = [_solved(blocks, seed) for seed in range(seeds)]
        row: dict[str, object] = {
            "blocks": blocks, "groups": GROUPS,
            "program_s": round(statistics.median(one[0] for one in found), 4),
            "worst_s": round(max(one[0] for one in found), 4),
            "gap": max(one[1] for one in found),
            "table_s": "", "table_plans": "", "seeds": seeds,
        }  # fmt: skip
        if blocks <= MOST_BLOCKS:
            tables = [_table(blocks, seed) for seed in range(seeds)]
            row["table_s"] = round(statistics.median(one[0] for one in tables), 4)
            row["table_plans"] = round(statistics.median(one[1] for one in tables))
        click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
        rows.append(row)
    click.echo(write_rows("assembler_scale", rows))


def _tables(blocks: int, seed: int) -> tuple[Tables, Tables, dict[str, int]]:
    """Costs in nanoseconds, values and least counts."""
    rng = np.random.default_rng([seed, blocks])
    costs, values = {}, {}
    for number, share in enumerate(rng.dirichlet(np.ones(blocks))):
        steps = rng.integers(2_000, 9_000, GROUPS)
        gains = np.cumsum(np.sort(rng.exponential(1.0, GROUPS))[::-1])
        costs[f"block{number}"] = (0, *(20_000 + np.cumsum(steps)).tolist())
        values[f"block{number}"] = (
            0, *np.round(SCALE * share * gains / gains[-1]).astype(int).tolist(),
        )  # fmt: skip
    return costs, values, dict.fromkeys(costs, 0)


def _solved(blocks: int, seed: int) -> tuple[float, float]:
    """Seconds of the integer program and its gap."""
    costs, values, least = _tables(blocks, seed)
    limit = sum(row[-1] for row in costs.values()) // 3
    started = time.perf_counter()
    solution = solve_program(values, least, [Row(table=costs, limit=limit)])
    seconds = time.perf_counter() - started
    assert solution is not None
    return seconds, (solution.bound - solution.objective) / SCALE


def _table(blocks: int, seed: int) -> tuple[float, int]:
    """Seconds of the dynamic program for all budgets, and the plans in its table."""
    started = time.perf_counter()
    table = knapsack.solve(*_tables(blocks, seed))
    return time.perf_counter() - started, len(table.cost)


if __name__ == "__main__":
    main()
