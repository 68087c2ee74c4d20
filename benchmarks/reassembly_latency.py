"""Latency of the networks that ``reassembly_ranking.py`` trained, on this machine.

    python benchmarks/reassembly_latency.py --data DIR [--pool NAME]

Builds every network of ``results/reassembly_candidates.csv`` again, without training, which does
not change what it computes with, and times it in turn with the largest donor among them (ONNX
Runtime, FP32, batch 1, one thread). Run it on a quiet machine.

Writes ``results/reassembly_latency.csv``: the median in milliseconds, and as a share of that
donor's, with the quartiles of the share over the pairs of runs.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from reassembly import POOLS, Seen, built, seen_of
from reassembly_ranking import BLOCKS
from results_file import data_option, need_data, read_rows, write_rows

from nnfactory.devices.measure import measure_interleaved
from nnfactory.devices.runners.onnxruntime import OnnxRuntimeRunner
from nnfactory.factory.graph.network import model_from_network
from nnfactory.factory.reuse.joint_partition import partition
from nnfactory.factory.reuse.pool import Pool, pool_of

REPEATS = 100


@click.command()
@data_option
@click.option("--pool", "names", multiple=True, type=click.Choice(list(POOLS)))
@click.option("--images", default=300, show_default=True, help="As the ranking had.")
def main(data_dir: Path, names: tuple[str, ...], images: int) -> None:
    """Time the networks that were ranked."""
    need_data(data_dir)
    for name in names or POOLS:
        mine = [row for row in read_rows("reassembly_candidates") if row["pool"] == name]
        seen = seen_of(data_dir, *POOLS[name], images, 1)
        found = partition(seen.chains, seen.similarity, BLOCKS)
        pool = pool_of(seen.places, found, seen.rows, seen.train.labels)
        rows = _timed(mine, pool, seen)
        click.echo(write_rows("reassembly_latency", rows, replace=("pool",)))


def _timed(rows: list[dict[str, str]], pool: Pool, seen: Seen) -> list[dict[str, object]]:
    """Every network in turn with the largest whole donor."""
    models = [_model(row, pool, seen) for row in rows]
    donors = [number for number, row in enumerate(rows) if row["mixed"] == "0"]
    largest = max(donors, key=lambda number: float(rows[number]["mmacs"]))
    found: list[dict[str, object]] = []
    with OnnxRuntimeRunner(models[largest]) as reference:
        whole_ms = 0.0
        for number in (largest, *(n for n in range(len(rows)) if n != largest)):
            with OnnxRuntimeRunner(models[number]) as runner:
                ((mine, beside),) = measure_interleaved([runner], reference, REPEATS)
            shares = np.array(mine.wall_ms) / np.array(beside.wall_ms)
            low, share, high = np.quantile(shares, (0.25, 0.5, 0.75))
            whole_ms = whole_ms or float(np.median(beside.wall_ms))
            row = rows[number]
            found.append(
                {
                    "pool": row["pool"], "donors": row["donors"], "mixed": row["mixed"],
                    "mmacs": row["mmacs"], "ms": round(float(share) * whole_ms, 4),
                    "share": round(float(share), 4), "low": round(float(low), 4),
                    "high": round(float(high), 4),
                }
            )  # fmt: skip
            click.echo("  ".join(f"{key} {value}" for key, value in found[-1].items()))
    return found


def _model(row: dict[str, str], pool: Pool, seen: Seen) -> bytes:
    """The network of a row, as it was before training."""
    donors = [place.donor.name for place in seen.places]
    way = pool.stages.way([donors.index(name) for name in row["donors"].split("+")])
    if round(way.costs["mmacs"], 1) != float(row["mmacs"]):
        raise click.ClickException(
            f"{row['donors']} has {way.costs['mmacs']:.1f} million multiply-adds, not "
            f"{row['mmacs']}: pass the --images that the ranking had, or rank again."
        )
    return model_from_network(built(pool, [way], seen)[0].network).SerializeToString()


if __name__ == "__main__":
    main()
