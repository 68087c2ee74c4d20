"""What ranks reassembled networks as their accuracy after a short training does.

    python benchmarks/reassembly_ranking.py --data DIR [--pool NAME] [--candidates N]

Random ways of four blocks through each pool of ``reassembly.py`` (limited in multiply-adds, so that
they can be trained here) get, without any training: what the search says they are worth, the
accuracy of a classifier in closed form on training images that neither it nor the stitches were
fitted to (what ``reassemble`` ranks by), that with images left out of the classifier alone, the
former where each stitch is fitted to what the donors alone make ("apart"), and NASWOT
(Mellor et al., arXiv:2006.04647). Then each is trained as ``reassemble --finish 2`` does, with the
donors of the pool as teachers, and measured on test images.

Writes ``results/reassembly_candidates.csv``, a row per network, and
``results/reassembly_ranking.csv``: Kendall's tau of every score with the accuracy after training,
with 95 % intervals (bootstrap over networks). Whole donors are trained, too, but not among the
ranked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from reassembly import POOLS, Seen, built, joined, naswot_of, seen_of, some_images
from results_file import data_option, need_data, write_rows
from scipy.stats import kendalltau

from nnfactory.factory.accuracy_measurement import images_at
from nnfactory.factory.datasets import Images
from nnfactory.factory.graph.network import Network
from nnfactory.factory.reuse.donor import Donor
from nnfactory.factory.reuse.head import fit_linear_head
from nnfactory.factory.reuse.joint_partition import partition
from nnfactory.factory.reuse.pool import Pool, pool_of
from nnfactory.factory.reuse.reassembly import answers, with_head_of
from nnfactory.factory.reuse.search import Way, best_ways
from nnfactory.factory.reuse.training.finish import finished

BLOCKS, EPOCHS, SEED = 4, 2, 7
TRAINED_ON = {"cifar": 2000, "imagenet": 800}  # images, of which some judge
MOST_MMACS = {"cifar": 1e9, "imagenet": 700.0}
SCORES = ("judged", "left_out", "value", "naswot")


@click.command()
@data_option
@click.option("--pool", "names", multiple=True, type=click.Choice(list(POOLS)))
@click.option("--candidates", default=30, show_default=True)
@click.option("--images", default=300, show_default=True, help="Training images to fit to.")
@click.option("--tested", default=1000, show_default=True, help="Test images.")
def main(data_dir: Path, names: tuple[str, ...], candidates: int, images: int, tested: int) -> None:
    """Compare scores of networks that were not trained."""
    need_data(data_dir)
    for name in names or POOLS:
        folder, _ = POOLS[name]
        seen = seen_of(data_dir, *POOLS[name], images, tested)
        found = partition(seen.chains, seen.similarity, BLOCKS)
        pool = pool_of(seen.places, found, seen.rows, seen.train.labels)
        more = some_images(data_dir / folder / "train.npz", TRAINED_ON[name])
        rows: list[dict[str, object]] = []
        for row in _candidates(name, pool, seen, more, candidates):
            rows.append(row)
            click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
        click.echo(write_rows("reassembly_candidates", rows, replace=("pool",)))
        click.echo(write_rows("reassembly_ranking", _taus(name, rows), replace=("pool",)))


def _candidates(
    name: str, pool: Pool, seen: Seen, more: Images, count: int
) -> Iterator[dict[str, object]]:
    """Scores and accuracies of whole donors, then of random mixed ways."""
    sizes = {place.donor.input_size for place in seen.places}
    images = {size: images_at(more, size) for size in sizes}
    whole = [pool.stages.way((donor,) * BLOCKS) for donor in range(len(seen.places))]
    every = best_ways(pool.stages, {"mmacs": MOST_MMACS[name]}, 10**6)
    mixed = [way for way in every if len(set(way.blocks)) > 1]
    order = np.random.default_rng(SEED).permutation(len(mixed))
    ways = [mixed[i] for i in order[:count]]
    donors = [way for way in whole if way.costs["mmacs"] <= MOST_MMACS[name]]
    teachers = []
    for made in built(pool, whole, seen):
        donor = seen.places[made.way.blocks[0]].donor
        teachers.append((with_head_of(made, donor, images[donor.input_size]), donor))
    for way in (*donors, *ways):
        (made,) = built(pool, [way], seen)
        donor = seen.places[way.blocks[0]].donor
        began = time.perf_counter()
        done = finished(
            with_head_of(made, donor, images[donor.input_size]), donor, teachers, images,
            np.arange(len(seen.train), len(seen.choosing)), epochs=EPOCHS,
        )  # fmt: skip
        yield {
            "pool": name, "donors": "+".join(seen.places[d].donor.name for d in way.blocks),
            "mixed": int(len(set(way.blocks)) > 1), "mparams": round(way.costs["mparams"], 4),
            "mmacs": round(way.costs["mmacs"], 1), "value": round(way.value, 4),
            "judged": round(made.judged or 0.0, 4), "left_out": round(made.head.left_out, 4),
            "apart": round(_apart(pool, way, seen), 4),
            "naswot": round(naswot_of(pool, way, seen), 2),
            "frozen": _accuracy(made.network, donor, seen),
            "trained": _accuracy(done.network, donor, seen), "test_images": len(seen.test),
            "trained_on": done.trained_on, "epochs": EPOCHS,
            "seconds": round(time.perf_counter() - began, 1),
        }  # fmt: skip


def _apart(pool: Pool, way: Way, seen: Seen) -> float:
    """Accuracy on the judging images with the stitches of the pool, each fitted by itself."""
    donor = seen.places[way.blocks[0]].donor
    features = answers(joined(pool, way), donor, list(seen.choosing.pixels))
    labels, count = seen.choosing.labels, len(seen.train)
    head = fit_linear_head(features[:count], labels[:count], int(labels.max()) + 1)
    right = (features[count:] @ head.weight.T + head.bias).argmax(1) == labels[count:]
    return float(right.mean())


def _accuracy(network: Network, donor: Donor, seen: Seen) -> float:
    found = answers(network, donor, list(seen.test.pixels))
    return round(float((found.argmax(1) == seen.test.labels).mean()), 4)


def _taus(name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Kendall's tau of every score with the accuracy after training, over mixed networks."""
    mixed = [row for row in rows if row["mixed"]]
    trained = np.array([row["trained"] for row in mixed], float)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(mixed), len(mixed)) for _ in range(2000)]
    table = []
    for score in SCORES:
        values = np.array([row[score] for row in mixed], float)
        taus = [kendalltau(values[index], trained[index]).statistic for index in drawn]
        table.append(
            {
                "pool": name, "score": score, "networks": len(mixed),
                "tau": round(float(kendalltau(values, trained).statistic), 3),
                "low": round(float(np.nanquantile(taus, 0.025)), 3),
                "high": round(float(np.nanquantile(taus, 0.975)), 3),
            }
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
