"""Reassembling pretrained networks: how they are divided and chosen, against the paper's way.

    python benchmarks/reassembly.py --data DIR [--pool NAME] [--part PART] [--share S] [--images N]

Part "partition" writes ``results/reassembly_partition.csv``, one row per pool, number of blocks,
slack of their sizes (the paper's is 0.2) and way of dividing:

* joint: borders and anchors at once, an integer program (``nnfactory modules partition``);
* turns: shortest paths and exact medoids in turn, 20 starts, which the above begins with;
* swaps: what DeRy does (arXiv:2210.17409): borders move by one place while that raises the
  objective, and medoids in turn, 200 starts, the same starts for the first 20.

The objective is the same, the sum over networks and blocks of the similarity (linear CKA, without
bias) to the anchor, in and out; so is the cap on the size of blocks.

Part "frozen" writes ``results/reassembly_frozen.csv``: networks of four blocks within shares of the
largest donor's parameters, nothing trained, stitches and classifier in closed form on training
images, accuracy on test images:

* ours: joint partition, the 20 best ways by the search, the best of them by accuracy on other
  training images than those that stitches and classifier are fitted to;
* paper: partition by swaps; from ten random ways single blocks are exchanged while NASWOT
  (Mellor et al., arXiv:2006.04647, five batches of 32 images) rises; the best of them by NASWOT;
* donor: the most accurate single donor that fits, with the same kind of classifier.

Differences are paired over test images, with 95 % intervals (bootstrap). Pools: the five CIFAR
ResNets on CIFAR-10 images, and six ImageNet networks on Imagenette. Seconds are of one thread.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnx
from pretrained import pretrained
from results_file import data_option, need_data, write_rows

from nnfactory.factory.datasets import Images, read_pack
from nnfactory.factory.graph.foreign import load_foreign
from nnfactory.factory.graph.network import Array, Network, model_from_network
from nnfactory.factory.graph.segments import chained
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.features import one_of_each, representations, tapped
from nnfactory.factory.reuse.joint_partition import partition
from nnfactory.factory.reuse.partition import (
    SLACK,
    Chain,
    Partition,
    alternated,
    best_cuts,
    least_slack,
    medoids,
    objective,
)
from nnfactory.factory.reuse.pool import Places, Pool, between, chains_of, places_of, pool_of
from nnfactory.factory.reuse.reassembly import Reassembled, answers, reassembled
from nnfactory.factory.reuse.search import Way, best_ways
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
SLACKS = (SLACK, 0.5)
STARTS, SWAP_STARTS = 20, 200
FROZEN_BLOCKS, CANDIDATES = 4, 20
SHARES = (0.3, 0.5, 0.75)  # of the parameters of the largest donor
NASWOT_BATCHES = 5


@click.command()
@data_option
@click.option("--pool", "names", multiple=True, type=click.Choice(list(POOLS)))
@click.option("--part", "parts", multiple=True, type=click.Choice(["partition", "frozen"]))
@click.option(
    "--share", "shares", multiple=True, type=click.FloatRange(0, 1, min_open=True),
    help="Frozen: of the parameters of the largest donor.",
)  # fmt: skip
@click.option("--images", default=300, show_default=True, help="Training images.")
@click.option("--tested", default=1000, show_default=True, help="Test images.")
def main(
    data_dir: Path, names: tuple[str, ...], parts: tuple[str, ...], shares: tuple[float, ...],
    images: int, tested: int,
) -> None:  # fmt: skip
    """Compare ways of reassembling."""
    need_data(data_dir)
    for name in names or POOLS:
        seen = seen_of(data_dir, *POOLS[name], images, tested)
        for part in parts or ("partition", "frozen"):
            if part == "partition":
                rows = _partitions(name, seen)
                click.echo(write_rows("reassembly_partition", rows, replace=("pool",)))
            else:
                _frozen(name, seen, shares or SHARES)


@dataclass(frozen=True, eq=False)
class Seen:
    """A pool and what it makes of images."""

    places: list[Places]
    rows: list[dict[str, Array]]
    similarity: Array
    train: Images  # to fit to
    choosing: Images  # the same and as many others, to choose on
    test: Images

    @property
    def chains(self) -> list[Chain]:
        """For the partition."""
        return chains_of(self.places)


def _partitions(name: str, seen: Seen) -> list[dict[str, object]]:
    """Objectives of both ways of dividing."""
    rows: list[dict[str, object]] = []
    for blocks, slack in itertools.product(BLOCKS, SLACKS):
        ways: dict[str, Callable[..., Partition]] = {
            "joint": partition,
            "turns": partial(alternated, restarts=STARTS),
            "swaps": partial(_swaps, restarts=SWAP_STARTS),
        }
        for way, divide in ways.items():
            began = time.perf_counter()
            found = divide(seen.chains, seen.similarity, blocks, slack=slack)
            seconds = time.perf_counter() - began
            rows.append(
                {
                    "pool": name, "networks": len(seen.places), "images": len(seen.train),
                    "blocks": blocks, "slack": slack, "way": way,
                    "objective": round(found.objective, 4),
                    "bound": round(found.bound, 4) if np.isfinite(found.bound) else "",
                    "of": 2 * blocks * len(seen.places), "seconds": round(seconds, 3),
                }
            )  # fmt: skip
            click.echo("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    return rows


def _frozen(name: str, seen: Seen, shares: Sequence[float]) -> None:
    """Networks without any training, ours and the paper's, at equal limits of parameters."""
    labels = seen.train.labels
    pools = {}
    ours = partition(seen.chains, seen.similarity, FROZEN_BLOCKS)
    swapped = _swaps(seen.chains, seen.similarity, FROZEN_BLOCKS, restarts=SWAP_STARTS)
    for way, found in (("ours", ours), ("paper", swapped)):
        pools[way] = pool_of(seen.places, found, seen.rows, labels)
    whole = [_whole(pools["ours"], donor, seen) for donor in range(len(seen.places))]
    largest = max(cost for cost, _ in whole)
    for share in shares:
        limit = share * largest
        answers: dict[str, tuple[Array, float, str, float]] = {}
        fitting = [(donor, hits) for donor, (cost, hits) in enumerate(whole) if cost <= limit]
        if fitting:
            donor, hits = max(fitting, key=lambda one: float(one[1].mean()))
            names = seen.places[donor].donor.name
            answers["donor"] = (hits, whole[donor][0], names, 0.0)
        for way, choose in (("ours", _ours), ("paper", _paper)):
            began = time.perf_counter()
            made = choose(pools[way], seen, limit)
            seconds = time.perf_counter() - began
            names = "+".join(seen.places[d].donor.name for d in made.way.blocks)
            answers[way] = (_hits(made, seen), made.way.costs["mparams"], names, seconds)
        best = answers["ours"][0]
        rows: list[dict[str, object]] = []
        for way, (hits, cost, names, seconds) in answers.items():
            low, high = _bootstrap(best.astype(float) - hits)
            rows.append(
                {
                    "pool": name, "share": share, "limit_mparams": round(limit, 4), "way": way,
                    "network": names, "mparams": round(cost, 4),
                    "value": round(float(hits.mean()), 4), "images": len(hits),
                    "ours_ahead": round(float((best.astype(float) - hits).mean()), 4),
                    "low": round(low, 4), "high": round(high, 4), "seconds": round(seconds, 1),
                }
            )  # fmt: skip
            click.echo("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
        click.echo(write_rows("reassembly_frozen", rows, replace=("pool", "share", "way")))


def _whole(pool: Pool, donor: int, seen: Seen) -> tuple[float, Array]:
    """Parameters of one donor's body, and what it answers with a classifier in closed form."""
    way = Way(blocks=(donor,) * FROZEN_BLOCKS, value=0.0, costs={})
    cost = float(pool.stages.costs["mparams"][:, donor].sum())
    return cost, _hits(built(pool, [way], seen)[0], seen)


def built(pool: Pool, ways: Sequence[Way], seen: Seen) -> list[Reassembled]:
    """Networks, fitted to the training images."""
    sizes = {place.donor.input_size for place in seen.places}
    return reassembled(pool, ways, dict.fromkeys(sizes, seen.choosing), seen.rows)


def _ours(pool: Pool, seen: Seen, limit: float) -> Reassembled:
    """Of the best ways by the search the one of the greatest left-out accuracy."""
    ways = best_ways(pool.stages, {"mparams": limit}, CANDIDATES)
    return max(built(pool, ways, seen), key=lambda one: one.judged or 0.0)


def _paper(pool: Pool, seen: Seen, limit: float) -> Reassembled:
    """Blocks exchanged one at a time while NASWOT rises, from ten random ways."""
    rng = np.random.default_rng(0)
    every = {way.blocks: way for way in best_ways(pool.stages, {"mparams": limit}, 10**6)}
    scores: dict[tuple[int, ...], float] = {}

    def score(blocks: tuple[int, ...]) -> float:
        if blocks not in scores:
            scores[blocks] = naswot_of(pool, every[blocks], seen)
        return scores[blocks]

    best: list[tuple[int, ...]] = []
    starts = list(every)
    for _ in range(10):
        mine = starts[int(rng.integers(len(starts)))]
        for stage in rng.permutation(FROZEN_BLOCKS):
            for block in rng.permutation(len(seen.places)):
                tried = (*mine[:stage], int(block), *mine[stage + 1 :])
                if tried in every and score(tried) > score(mine):
                    mine = tried
        best.append(mine)
    chosen = every[max(best, key=score)]
    return built(pool, [chosen], seen)[0]


def joined(pool: Pool, way: Way) -> Network:
    """The body of a way with the stitches of the pool, fitted to what the donors alone make."""
    parts = [pool.blocks[0][way.blocks[0]]]
    for stage, (one, other) in enumerate(itertools.pairwise(way.blocks)):
        block = pool.blocks[stage + 1][other]
        if one != other:
            parts.append(between(pool.stitches[stage, one, other], parts[-1], block))
        parts.append(block)
    return chained("joined", parts)


def naswot_of(pool: Pool, way: Way, seen: Seen) -> float:
    """Logarithm of the determinant of how often units agree on images, mean over batches."""
    body, donor = joined(pool, way), seen.places[way.blocks[0]].donor
    units = [node.output[0] for node in body.nodes if node.op_type in ("Relu", "Clip")]
    run = tapped(replace(donor, network=body, labels=()), units)
    values = []
    for start in range(0, NASWOT_BATCHES * 32, 32):
        codes = []
        for image in seen.train.pixels[start : start + 32]:
            found = run({donor.input_name: donor.tensor(image)})
            codes.append(np.concatenate([(found[name] > 0).ravel() for name in units]))
        bits = np.array(codes, np.float32)
        agreeing = bits @ bits.T + (1 - bits) @ (1 - bits).T
        values.append(float(np.linalg.slogdet(agreeing.astype(np.float64))[1]))
    return float(np.mean(values))


def _hits(made: Reassembled, seen: Seen) -> Array:
    """Which test images are answered correctly, bool (N,)."""
    donor = seen.places[made.way.blocks[0]].donor
    found = answers(made.network, donor, list(seen.test.pixels))
    return np.asarray(found.argmax(1) == seen.test.labels)


def _bootstrap(gaps: Array) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = [float(rng.choice(gaps, len(gaps)).mean()) for _ in range(1000)]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def seen_of(data_dir: Path, folder: str, names: Sequence[str], images: int, tested: int) -> Seen:
    """Places and similarities of a pool on training images."""
    train = some_images(data_dir / folder / "train.npz", images)
    last = "test.npz" if (data_dir / folder / "test.npz").is_file() else "val.npz"
    places, rows = [], []
    for name in names:
        one = pretrained(data_dir, name)
        donor = Donor(
            name=name, network=imported(one.network), mean=one.mean, std=one.std, colors=one.colors
        )
        places.append(places_of(donor))
        rows.append(representations(donor, places[-1].tensors, list(train.pixels)))
        click.echo(f"{name}: {len(places[-1].tensors) - 2} places inside")
    every = [one_of_each(rows[0][places[0].tensors[0]])]
    for place, mine in zip(places, rows, strict=True):
        every += [one_of_each(mine[tensor]) for tensor in place.tensors[1:]]
    test = some_images(data_dir / folder / last, tested)
    choosing = some_images(data_dir / folder / "train.npz", 2 * images)  # begins with the former
    return Seen(places, rows, cka_matrix(every), train, choosing, test)


def imported(network: Network) -> Network:
    """A network as importing it makes it: normalization folded, in our opset."""
    with TemporaryDirectory() as folder:
        onnx.save(model_from_network(network), place := Path(folder) / "network.onnx")
        return load_foreign(place)


def some_images(file: Path, count: int) -> Images:
    """Some images of a pack, always the same ones."""
    pixels = read_pack(file)
    labels = np.load(file, allow_pickle=False)["label"].astype(np.int64)
    chosen = np.random.default_rng(0).permutation(len(labels))[:count]
    return Images(pixels=pixels[chosen], labels=labels[chosen], boxes=())


def _swaps(
    chains: Sequence[Chain], similarity: Array, blocks: int, *, restarts: int, slack: float = SLACK
) -> Partition:
    """The best partition that moving borders by one place reaches."""
    rng = np.random.default_rng(0)
    slacks = [max(slack, least_slack(chain, blocks)) for chain in chains]
    best: Partition | None = None
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
        if best is None or reached > best.objective:
            best = Partition(cuts=tuple(cuts), anchors=anchors, objective=reached)
    assert best is not None
    return best


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
