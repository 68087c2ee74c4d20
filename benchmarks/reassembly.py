"""Taking pretrained networks apart into blocks that correspond, against the paper's way.

    python benchmarks/reassembly.py --data DIR [--pool NAME] [--images N]

Writes ``results/reassembly.csv``, one row per pool, number of blocks and way of dividing:

* exact: shortest paths and exact medoids in turn, 20 starts (``nnfactory modules partition``);
* swaps: what DeRy does (arXiv:2210.17409): borders move by one place while that raises the
  objective, and medoids in turn, 200 starts, the same starts for the first 20.

The objective is the same, the sum over networks and blocks of the similarity (linear CKA, without
bias) to the anchor, in and out; so is the cap on the size of blocks. Pools: the five CIFAR ResNets
on CIFAR-10 images, and six ImageNet networks on Imagenette. Seconds are of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from pretrained import pretrained
from results_file import data_option, need_data, write_rows

from nnfactory.factory.datasets import read_pack
from nnfactory.factory.graph.network import Array
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.features import representations
from nnfactory.factory.reuse.partition import (
    SLACK,
    Chain,
    best_cuts,
    least_slack,
    medoids,
    objective,
    partition,
)
from nnfactory.factory.reuse.reassembly import chains_of, places_of
from nnfactory.factory.reuse.similarity import cka_matrix

POOLS = {
    "cifar": ("cifar10_jpeg", ("resnet8", "resnet20", "resnet32", "resnet44", "resnet56")),
    "imagenet": (
        "imagenette128_jpeg",
        ("mobilenet-v1-0.25", "mobilenet-v1-0.5", "mobilenet-v1-0.75", "mobilenet-v2",
         "imagenet-resnet18", "imagenet-resnet50"),
    ),
}  # fmt: skip
BLOCKS = (3, 4)
STARTS, SWAP_STARTS = 20, 200


@click.command()
@data_option
@click.option("--pool", "names", multiple=True, type=click.Choice(list(POOLS)))
@click.option("--images", default=256, show_default=True, help="Training images.")
def main(data_dir: Path, names: tuple[str, ...], images: int) -> None:
    """Compare partitions."""
    need_data(data_dir)
    rows: list[dict[str, object]] = []
    for name in names or POOLS:
        chains, similarity = _pool(data_dir, *POOLS[name], images)
        for blocks in BLOCKS:
            for way, divide, starts in (
                ("exact", partition, STARTS),
                ("swaps", _swaps, SWAP_STARTS),
            ):
                began = time.perf_counter()
                found = divide(chains, similarity, blocks, restarts=starts)
                seconds = time.perf_counter() - began
                reached = found if isinstance(found, float) else found.objective
                rows.append(
                    {
                        "pool": name, "networks": len(chains), "images": images, "blocks": blocks,
                        "way": way, "starts": starts, "objective": round(reached, 4),
                        "of": 2 * blocks * len(chains), "seconds": round(seconds, 3),
                    }
                )  # fmt: skip
                click.echo("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    click.echo(write_rows("reassembly", rows, replace=("pool",)))


def _pool(
    data_dir: Path, folder: str, names: Sequence[str], images: int
) -> tuple[list[Chain], Array]:
    """Places and similarities of a pool on training images."""
    pixels = read_pack(data_dir / folder / "train.npz")
    chosen = np.random.default_rng(0).choice(len(pixels), images, replace=False)
    some = [pixels[i] for i in sorted(chosen)]
    places, rows = [], []
    for number, name in enumerate(names):
        one = pretrained(data_dir, name)
        donor = Donor(name=name, network=one.network, mean=one.mean, std=one.std, colors=one.colors)
        place = places_of(donor)
        seen = representations(donor, place.tensors, some)
        rows += [seen[tensor] for tensor in place.tensors[bool(number) :]]
        places.append(place)
        click.echo(f"{name}: {len(place.tensors) - 2} places inside")
    return chains_of(places), cka_matrix(rows)


def _swaps(chains: Sequence[Chain], similarity: Array, blocks: int, *, restarts: int) -> float:
    """The greatest objective that moving borders by one place reaches."""
    rng = np.random.default_rng(0)
    slacks = [max(SLACK, least_slack(chain, blocks)) for chain in chains]
    best = -np.inf
    for _ in range(restarts):
        cuts = [
            best_cuts(chain, rng.random((blocks, 2, len(chain.rows))), slack)
            for chain, slack in zip(chains, slacks, strict=True)
        ]
        anchors = medoids(chains, similarity, cuts)
        reached = objective(chains, similarity, cuts, anchors)
        while True:
            for number, (chain, slack) in enumerate(zip(chains, slacks, strict=True)):
                cuts[number] = _moved(chains, similarity, cuts, anchors, number, chain, slack)
            anchors = medoids(chains, similarity, cuts)
            now = objective(chains, similarity, cuts, anchors)
            if now <= reached + 1e-12:
                break
            reached = now
        best = max(best, reached)
    return float(best)


def _moved(
    chains: Sequence[Chain], similarity: Array, cuts: list[tuple[int, ...]],
    anchors: tuple[int, ...], number: int, chain: Chain, slack: float,
) -> tuple[int, ...]:  # fmt: skip
    """A network's borders after every single move that raises the objective for these anchors."""
    blocks = len(anchors)
    limit = (1 + slack) * chain.sizes[-1] / blocks + 1e-9
    rows = [[int(chains[j].rows[cuts[j][k + i]]) for i in (0, 1)] for k, j in enumerate(anchors)]

    def gain(mine: tuple[int, ...]) -> float:
        return float(
            sum(
                similarity[rows[k][i], chain.rows[mine[k + i]]]
                for k in range(blocks)
                for i in (0, 1)
            )
        )

    mine, improved = cuts[number], True
    while improved:
        improved = False
        for border in range(1, blocks):
            for step in (-1, 1):
                tried = (*mine[:border], mine[border] + step, *mine[border + 1 :])
                sizes = np.diff(chain.sizes[list(tried)])
                fits = tried[border - 1] < tried[border] < tried[border + 1]
                if fits and sizes.max() <= limit and gain(tried) > gain(mine) + 1e-12:
                    mine, improved = tried, True
    return mine


if __name__ == "__main__":
    main()
