"""A pool opened for reassembly: donors that may be used, images, blocks with values and costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..factory.errors import UsageError
from ..factory.schema import Task
from .foreign import check_pool, features, input_sizes, similarities
from .request import Report, Stopwatch

if TYPE_CHECKING:
    from ..factory.graph.network import Array
    from ..factory.reuse.donor import Donor
    from ..factory.reuse.own_images import TwoParts
    from ..factory.reuse.partition import Partition
    from ..factory.reuse.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenedPool:
    """Donors in blocks, and images to choose and to measure with.

    Attributes:
        pool: Blocks, stitches, values and costs.
        partition: Where the donors are divided.
        cards: Of the donors, as :func:`read_card` gives them.
        seen: Per donor the representations of its tensors on the images to fit to.
        images: To fit to, and to measure on.
    """

    pool: Pool
    partition: Partition
    cards: tuple[Mapping[str, Any], ...]
    seen: list[dict[str, Array]]
    images: TwoParts

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the donors."""
        return tuple(place.donor.name for place in self.pool.places)

    @property
    def labels(self) -> Array:
        """Of the images to fit to, (N,)."""
        return next(iter(self.images.training.values())).labels[self.images.fitted]

    @property
    def task(self) -> Task:
        """What a network of the pool is to do."""
        return Task(kind="cls", classes=self.images.classes)

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the donors and of where they are divided."""
        said = [
            [[card["files"], card["mean"], card["std"], card["colors"]] for card in self.cards],
            [list(cuts) for cuts in self.partition.cuts],
        ]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def donor(self, blocks: Sequence[int]) -> Donor:
        """The donor of the first block of a way: images are prepared as it wants them."""
        return self.pool.places[blocks[0]].donor


def open_pool(
    pool: Sequence[str | Path], data: Path, *, latency_of: str | None, classes: Sequence[str],
    blocks: int, licenses: Sequence[str], images: int, watch: Stopwatch, report: Report,
) -> OpenedPool:  # fmt: skip
    """Open networks and images; divide, fit stitches, value and measure blocks.

    Args:
        pool: As in :func:`reassemble`.
        data: As there.
        latency_of: The device on which blocks are measured or estimated, or None.
        classes: As in :func:`reassemble`.
        blocks: As there.
        licenses: As there.
        images: As there.
        watch: Takes the seconds.
        report: As there.

    Raises:
        NNFactoryError: What :func:`reassemble` says.
    """
    from ..devices.parts import PartLatency
    from ..factory.reuse.joint_partition import partition
    from ..factory.reuse.own_images import read_two_parts
    from ..factory.reuse.pool import chains_of, places_of, pool_of
    from ..factory.reuse.store import donor_folder, open_donor, read_card

    check_pool(pool)
    with watch.phase("open"):
        every = {folder: read_card(folder) for folder in map(donor_folder, pool)}
        cards = _licensed(every, licenses)
        names = [card["name"] for card in cards.values()]
        if len(set(names)) < len(names):
            raise UsageError("Two networks of the pool have one name: import one under another.")
        places = [places_of(open_donor(folder)) for folder in cards]
    with watch.phase("data"):
        report("images", 0, 1)
        parts = read_two_parts(data, input_sizes(places), classes, most=images)
    with watch.phase("features"):
        fitting = parts.fitting
        seen = features(places, fitting, report)
    with watch.phase("partition"):
        found = partition(chains_of(places), similarities(places, seen), blocks)
    with watch.phase("blocks"):
        latency = None if latency_of is None else PartLatency(latency_of)
        valued = pool_of(
            places, found, seen, next(iter(fitting.values())).labels,
            latency_ms=None if latency is None else latency.of,
            call_ms=0.0 if latency is None else latency.call_ms, report=report,
        )  # fmt: skip
    return OpenedPool(
        pool=valued, partition=found, cards=tuple(cards.values()), seen=seen, images=parts,
    )  # fmt: skip


def _licensed(
    cards: Mapping[Path, Mapping[str, Any]], licenses: Sequence[str]
) -> dict[Path, Mapping[str, Any]]:
    """The networks that may be used.

    Raises:
        UsageError: None may.
    """
    allowed = {name.casefold() for name in licenses}
    kept = {
        folder: card
        for folder, card in cards.items()
        if not allowed or card["license"].casefold() in allowed
    }
    if not kept:
        stated = ", ".join(
            f"{card['name']}: {card['license'] or 'not stated'}" for card in cards.values()
        )
        raise UsageError(f"No network of the pool has an allowed license ({stated}).")
    return kept
