"""``reassemble``: a classifier from blocks of imported networks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from ..factory.schema import Budget
from ..factory.serialize import table_from_noun
from . import options
from .build_facts import Fact, cost_facts, proof_facts, size_text
from .builds import budget_words, print_facts, print_next, raise_if_inconclusive, result_table
from .output import console, interval_text, print_json, progress

if TYPE_CHECKING:
    from ..api import Reassembly

SHOWN = 5  # candidates


@click.command(short_help="Build a classifier from blocks of imported networks.")
@click.option("--pool", required=True, metavar="A,B,..", help="Imported networks.")
@click.option(
    "--data", required=True, type=options.PATH, metavar="DIR",
    help="Labelled images: a folder per class, or any format that 'modules check' reads.",
)  # fmt: skip
@click.option("--classes", metavar="A,B,..", help="Some classes of --data; all by default.")
@click.option("--device", default="host", show_default=True, metavar="NAME")
@click.option("--latency", type=options.MILLISECONDS, help="Limit of the median latency.")
@click.option("--params", type=options.MPARAMS, help="Parameter limit: 0.5, 0.5M or 500k.")
@click.option("--macs", type=options.MMACS, help="Multiply-add limit: 100, 100M or 0.1G.")
@click.option("--memory", type=options.MEBIBYTES, help="Peak memory limit: 4, 4MiB or 4MB.")
@click.option("--donors", type=click.IntRange(1), help="How many networks may take part.")
@click.option("--licenses", metavar="A,B,..", help="Only networks of these licenses, as imported.")
@click.option("--blocks", type=click.IntRange(2), default=4, show_default=True)
@click.option(
    "--images", type=click.IntRange(16, 512), default=256, show_default=True,
    help="Images to fit stitches to, at most, and as many others to choose on.",
)  # fmt: skip
@click.option(
    "--finish", "epochs", type=click.IntRange(0), default=0, show_default=True, metavar="PASSES",
    help="Train it for so many passes over the images, with the donors as teachers.",
)  # fmt: skip
@click.option("-o", "--out", "out_dir", type=options.PATH, help="The artifact folder.")
@click.option("--overwrite", is_flag=True, help="Replace whatever is at --out.")
@options.json_option
def reassemble(
    pool: str, data: Path, classes: str | None, device: str, latency: float | None,
    params: float | None, macs: float | None, memory: float | None, donors: int | None,
    licenses: str | None, blocks: int, images: int, epochs: int, out_dir: Path | None,
    overwrite: bool, as_json: bool,
) -> None:  # fmt: skip
    """Build a classifier from blocks of imported networks.

    Stitches and classifier are fitted in closed form to labelled images, and trained where --finish
    asks for it; other images say how good the network is.

    \b
    nnfactory reassemble --pool r18,mobilenet --data photos --params 2M
    nnfactory reassemble --pool r18,mobilenet --data photos --latency 5ms --donors 1 --json
    """
    from .. import api

    budget = Budget(latency_ms=latency, mparams=params, mmacs=macs, memory_mib=memory)
    words = ["nnfactory", "reassemble", "--pool", pool, "--data", str(data)]
    words += [] if classes is None else ["--classes", classes]
    words += ["--device", device, *budget_words(budget), "--blocks", str(blocks)]
    words += [] if donors is None else ["--donors", str(donors)]
    words += [] if licenses is None else ["--licenses", licenses]
    words += ["--images", str(images), *(["--finish", str(epochs)] if epochs else [])]
    with progress() as report:
        made = api.reassemble(
            options.names_in(pool), data, device=device, budget=budget,
            classes=[] if classes is None else options.names_in(classes), blocks=blocks,
            most_donors=donors,
            licenses=[] if licenses is None else options.names_in(licenses), images=images,
            epochs=epochs, out_dir=out_dir, overwrite=overwrite, command=shlex.join(words),
            report=report,
        )  # fmt: skip
    table = result_table(made.result, words) | {
        "blocks": [table_from_noun(view) for view in made.blocks],
        "candidates": [table_from_noun(view) for view in made.candidates],
        "donors": list(made.donors),
        "finish": None if made.finish is None else table_from_noun(made.finish),
    }
    if not as_json:
        print_facts(made.result, _facts(made, budget))
        _print_candidates(made)
    raise_if_inconclusive(made.result, budget, table)
    if as_json:
        print_json(table)


def _facts(made: Reassembly, budget: Budget) -> Iterator[Fact]:
    """Everything about a network that was reassembled within a budget."""
    result, donors = made.result, dict.fromkeys(view.donor for view in made.blocks)
    yield (
        "network",
        f"{len(result.plan.task.classes)} classes at {result.plan.input_size} px; blocks of "
        f"{', '.join(donors)}, of the pool {', '.join(made.donors)}",
    )
    for number, view in enumerate(made.blocks):
        stitch = "" if view.stitch_r2 is None else f", after a stitch of R² {view.stitch_r2:.2f}"
        yield (
            "" if number else "blocks",
            f"{view.donor}, {view.start} to {view.stop}, {view.mparams:.3f} M parameters{stitch}",
        )
    yield from cost_facts(result, budget)
    for accuracy in result.accuracy:
        value = interval_text(accuracy.interval)
        yield "accuracy", f"measured {accuracy.metric} {value} on {accuracy.dataset}"
    if made.finish is not None:
        yield "finish", str(made.finish)
    yield "size", size_text(result.estimate)
    certificate, chosen = result.certificate, result.chosen
    assert chosen is not None
    limits = f"; limited by {', '.join(certificate.binding)}" if certificate.binding else ""
    is_first = chosen.accuracy >= max(one.judged for one in made.candidates)
    how = "right most often" if is_first else "the best whole network, no mixed one surely better,"
    yield (
        "choice",
        f"{how} of {chosen.candidates} that were built, on {chosen.accuracy:.1%} of "
        f"{chosen.images} images that they were not fitted to; worth {certificate.objective:.3f}, "
        f"and by the costs of blocks no way is worth more than {certificate.bound:.3f} "
        f"({certificate.method}){limits}",
    )
    yield from proof_facts(result)


def _print_candidates(made: Reassembly) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("blocks of", overflow="fold")
    for title in ("accuracy", "value", "M params", "MMACs"):
        table.add_column(title, justify="right")
    for view in made.candidates[:SHOWN]:
        table.add_row(
            escape(" > ".join(view.donors)), f"{view.judged:.1%}", f"{view.value:.3f}",
            f"{view.mparams:.3f}", f"{view.mmacs:.1f}",
        )  # fmt: skip
    console().print(f"\nthe best of {len(made.candidates)} that were built:")
    console().print(table)
    print_next(made.result)
