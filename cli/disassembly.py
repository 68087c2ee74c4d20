"""``disassemble``: what some classes need of a trained network, cut out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from ..factory.schema import Budget
from ..factory.serialize import table_from_noun
from ..factory.units import count_text
from . import options
from .build_facts import Fact, cost_facts, proof_facts, size_text
from .builds import budget_words, print_facts, print_next, raise_if_inconclusive, result_table
from .foreign import Triple
from .output import console, interval_text, print_json, progress

if TYPE_CHECKING:
    from ..api import Disassembly
    from ..factory.schema import MeasuredChoice

LITTLE = 0.1  # of the inner channels


@click.command(short_help="Cut what some classes need out of a trained network.")
@click.argument("model", metavar="NAME|FILE")
@click.option("--classes", metavar="A,B,..", help="Which of its labels.")
@click.option(
    "--forget", metavar="A,..",
    help="Labels to know nothing of; --classes then are all others that --data shows.",
)  # fmt: skip
@click.option(
    "--reject", is_flag=True,
    help="One more class, 'none of these', learned from the other classes that --data shows.",
)  # fmt: skip
@click.option(
    "--data", required=True, type=options.PATH, metavar="DIR",
    help="Labelled images: a folder per class, or any format that 'modules check' reads.",
)  # fmt: skip
@click.option("--device", default="host", show_default=True, metavar="NAME")
@click.option(
    "--share", type=click.FloatRange(0, 1, min_open=True, max_open=True), metavar="0..1",
    help="Latency limit as a share of the whole network's.",
)  # fmt: skip
@click.option("--latency", type=options.MILLISECONDS, help="Limit of the median latency.")
@click.option("--params", type=options.MPARAMS, help="Parameter limit: 0.5, 0.5M or 500k.")
@click.option("--macs", type=options.MMACS, help="Multiply-add limit: 100, 100M or 0.1G.")
@click.option("--memory", type=options.MEBIBYTES, help="Limit of the peak memory: 1.5MiB.")
@click.option(
    "--keep-size", is_flag=True,
    help="Cut channels alone; else smaller sizes are compared (not with --thresholds, --forget).",
)  # fmt: skip
@click.option(
    "--thresholds", is_flag=False, flag_value="paper", metavar="ALPHA,BETA",
    help="Instead of limits: what counts as relevant; without numbers as in the paper's code.",
)  # fmt: skip
@click.option(
    "--finish", "epochs", type=click.IntRange(0), default=0, show_default=True, metavar="PASSES",
    help="Passes over the images in which everything is trained towards the whole network (torch).",
)  # fmt: skip
@click.option(
    "--images", type=click.IntRange(16, 1000), default=1000, show_default=True,
    help="Images to fit layers to, at most, and as many others to choose on.",
)  # fmt: skip
@click.option(
    "--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Of a FILE: the name of every output, one a line, in order.",
)  # fmt: skip
@click.option("--mean", type=Triple(), help="Of a FILE: of pixels in [0, 1], per color.")
@click.option("--std", type=Triple(), help="The same; pixels are divided by it.")
@click.option("--colors", type=click.Choice(["RGB", "BGR"]), help="Of a FILE.  [default: RGB]")
@click.option("--license", help="Of a FILE's weights, as SPDX names it.")
@click.option(
    "--imgsz", "input_size", type=click.IntRange(1), help="Of a FILE that leaves it open."
)
@click.option("-o", "--out", "out_dir", type=options.PATH, help="The artifact folder.")
@click.option("--overwrite", is_flag=True, help="Replace whatever is at --out.")
@options.json_option
def disassemble(
    model: str, classes: str | None, forget: str | None, reject: bool, data: Path, device: str,
    share: float | None, latency: float | None, params: float | None, macs: float | None,
    memory: float | None, keep_size: bool, thresholds: str | None, epochs: int, images: int,
    out_dir: Path | None, overwrite: bool, as_json: bool, **said: Any,
) -> None:  # fmt: skip
    """Cut what some classes need out of a trained classifier or detector.

    NAME is an imported network; of an ONNX FILE labels and normalization must be said. The folders
    of --data are named as the labels. Nothing is trained without --finish.

    \b
    nnfactory disassemble r18 --classes tench,church --data photos --share 0.5
    nnfactory disassemble net.onnx --labels names.txt --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26 \\
        --classes cat,dog,car --data photos --params 0.2M
    """
    from .. import api

    budget = Budget(latency_ms=latency, mparams=params, mmacs=macs, memory_mib=memory)
    if classes is None and forget is None:
        raise click.UsageError("Missing --classes, or --forget.")
    words = ["nnfactory", "disassemble", model, "--data", str(data), "--device", device]
    words += [] if classes is None else ["--classes", classes]
    words += [] if forget is None else ["--forget", forget]
    words += ["--reject"] * reject + ([] if share is None else ["--share", f"{share:g}"])
    words += ["--keep-size"] * keep_size
    words += [] if thresholds is None else ["--thresholds", thresholds]
    words += [*budget_words(budget), *(["--finish", str(epochs)] if epochs else [])]
    words += ["--images", str(images), *_said_words(said)]
    said = {key: value for key, value in said.items() if value is not None}
    missing = [f"--{key}" for key in ("labels", "mean", "std") if key not in said]
    if missing and (said or Path(model).is_file()):
        raise click.UsageError(
            f"Missing {', '.join(missing)}: what no ONNX file says and nobody should guess."
        )
    with progress() as report:
        made = api.disassemble(
            api.foreign_network(Path(model), **said) if said else model, data,
            classes=options.names_in(classes) if classes else (),
            forget=options.names_in(forget) if forget else (), device=device, share=share,
            budget=budget, thresholds=_thresholds(thresholds), reject=reject, keep_size=keep_size,
            finish=epochs, images=images, out_dir=out_dir, overwrite=overwrite,
            command=shlex.join(words), report=report,
        )  # fmt: skip
    if share is not None:
        budget = replace(budget, latency_ms=share * made.whole_ms)
    table = result_table(made.result, words) | {
        "families": [table_from_noun(view) for view in made.families],
        "classes": [table_from_noun(view) for view in made.classes],
        "values": made.values, "whole_ms": made.whole_ms,
        "whole_size": made.whole_size, "sizes": made.sizes,
        "forgotten": [table_from_noun(view) for view in made.forgotten],
        "finish": None if made.taught is None else table_from_noun(made.taught),
    }  # fmt: skip
    if not as_json:
        print_facts(made.result, _facts(made, budget))
        _print_classes(made)
    raise_if_inconclusive(made.result, budget, table)
    if as_json:
        print_json(table)


def _thresholds(said: str | None) -> tuple[float, float] | str | None:
    if said is None or said == "paper":
        return said
    try:
        alpha, beta = map(float, said.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"must be two numbers such as 0.3,0.2, got {said}.", param_hint="--thresholds"
        ) from error
    return alpha, beta


def _said_words(said: dict[str, Any]) -> list[str]:
    names = {"input_size": "imgsz"}
    words = []
    for key, value in said.items():
        if value is not None:
            text = ",".join(f"{x:g}" for x in value) if isinstance(value, tuple) else str(value)
            words += [f"--{names.get(key, key)}", text]
    return words


def _facts(made: Disassembly, budget: Budget) -> Iterator[Fact]:
    """Everything about a component that was cut out within a budget."""
    result = made.result
    plan, chosen = result.plan, result.chosen
    kept, total = (sum(getattr(f, key) for f in made.families) for key in ("kept", "channels"))
    gone = sum(1 for family in made.families if not family.kept)
    branches = f", {gone} of {len(made.families)} branches left out" if gone else ""
    instead = "" if plan.input_size == made.whole_size else f" instead of {made.whole_size}"
    yield (
        "network",
        f"{count_text(len(plan.task.classes), 'class')} of {plan.library} at {plan.input_size} px"
        f"{instead}; {kept} of {total} inner channels{branches}",
    )
    if made.sizes == 1:
        yield "", f"{plan.library} runs at no other input size, so channels alone were cut"
    if kept < LITTLE * total:
        yield "", "hardly anything is left of it; a little more budget keeps far more"
    yield from cost_facts(result, budget)
    how = "measured" if result.measurement else "estimated"
    yield "", f"the whole network {how} {made.whole_ms:.3f} ms"
    for accuracy, of in zip(result.accuracy, ("", ", the whole network"), strict=True):
        value = interval_text(accuracy.interval)
        yield (
            "" if of else "accuracy",
            f"measured {accuracy.metric} {value}{of} on {accuracy.dataset}",
        )
    yield "size", size_text(result.estimate)
    assert chosen is not None
    yield "choice", _choice_text(made, chosen)
    if made.taught is not None:
        done = made.taught
        kept = "" if done.is_kept else "; what was there before was nearer, and stays"
        yield (
            "finish",
            f"{done.epochs} passes: divergence from the whole network {done.before:.3g} to "
            f"{done.after:.3g} on images that were left out{kept}",
        )
    for view in made.forgotten:
        yield (
            "forgotten",
            f"{view.name}: a linear layer on the last features finds it with {view.component:.3f} "
            f"(area under the curve; {view.whole:.3f} on the whole network's), {view.n} images",
        )
    yield from proof_facts(result)


def _choice_text(made: Disassembly, chosen: MeasuredChoice) -> str:
    proof, metric = made.result.certificate, made.result.accuracy[0].metric
    judged = f"{metric} {chosen.accuracy:.1%} on {chosen.images} images that nothing was fitted to"
    if proof.method == "thresholds":
        share = f"{1 - proof.gap:.1%}"
        return f"by thresholds, which keep {share} of what flows to the classes; {judged}"
    side = made.result.plan.input_size
    nearest = f"nearest to the whole network of {chosen.candidates}, " * (chosen.candidates > 1)
    if proof.method == "nothing cut":
        enough = "smaller images are enough" if side < made.whole_size else "the limits allow all"
        return f"{enough}, nothing was cut; {nearest}{judged}"
    proven = (
        f"at {side} px no other sizes of the families lose less by these values and costs "
        f"({proof.method})"
        if proof.gap <= 1e-6
        else f"the smallest there is, others may lose less (gap {proof.gap:.1e})"
    )
    return f"by {made.values}, {nearest}{judged}; {proven}"


def _print_classes(made: Disassembly) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    for title in ("whole network", "component", "images"):
        table.add_column(title, justify="right")
    for view in made.classes:
        table.add_row(escape(view.name), f"{view.whole:.1%}", f"{view.component:.1%}", str(view.n))
    console().print()
    console().print(table)
    if made.has_others:
        console().print("The whole network's other classes count as one here, by a fitted row.")
    print_next(made.result)
