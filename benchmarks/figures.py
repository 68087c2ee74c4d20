"""Write the figures of the README and of pages under docs from the result files.

    python benchmarks/figures.py [--check]

Replaces what stands between the two ``figures`` marks of a page. With ``--check`` nothing is
written and the exit code is 1 when a page is not up to date.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import disassembly_tables
import reassembly_tables
from page_tables import Row, interval, points, section
from results_file import read_rows

REPOSITORY = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"(<!-- figures:[^\n]*-->\n).*?(<!-- /figures -->)", re.S)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when out of date.")
def main(check: bool) -> None:
    """Bring the figures of all pages up to date."""
    is_old = False
    for name, parts in _PAGES.items():
        path = REPOSITORY / name
        old = path.read_text(encoding="utf-8")
        new = updated(old, parts)
        is_old |= old != new
        if not check:
            path.write_text(new, encoding="utf-8")
    sys.exit(int(check and is_old))


def updated(page: str, parts: Sequence[Callable[[], str]]) -> str:
    """A page with the figures of the result files."""
    text = "\n".join(found for part in parts if (found := part()))
    return _BLOCK.sub(lambda match: f"{match[1]}{text}{match[2]}", page)


_PARTS = {
    "full": "whole network, {what}",
    "cutting": "built at {what} of the latency, against the full network with masked logits",
    "conditioning": "modulated for the task at {what}, against the plain slice",
    "against": "built at a quarter, against {what}",
}
_CLAIMS = {  # of any part, in words of their own
    "10 classes at 0.25": "10 classes, built at 0.25 of the latency",
    "all classes, no limit": "built without a limit, all classes",
}


def _library_quality() -> str:
    """What was asked of the libraries and what they reach; bars that are missed included."""
    rows = read_rows("library_quality")
    if not rows:
        return ""
    text = (
        "The libraries on test images (`library_quality.csv`; differences are paired over "
        f"{max(row['n'] for row in rows if row['part'] == 'cutting')} tasks, 95 % intervals):"
    )
    cells = []
    for row in rows:
        what = _CLAIMS.get(row["what"]) or _PARTS[row["part"]].format(what=row["what"])
        size = f" ({float(row['mmacs']):.0f} MMACs)" if row["mmacs"] else ""
        bar = f"{float(row['bar']):g}" if row["bar"] else ""
        verdict = {"True": "reached", "False": "**missed**"}.get(row["reached"], "")
        cells.append([row["library"], what + size, interval(row), f"{bar} {verdict}".strip()])
    return section(text, ["library", "what", "value", "asked for"], cells)


def _specialization() -> str:
    """Accuracy at equal measured latency: a line per library, task size and latency."""
    rows = read_rows("specialization")
    if not rows:
        return ""
    text = (
        "Accuracy on test images of the task's classes at half and a quarter of the full network's "
        "measured latency (ONNX Runtime on the CPU, FP32, batch 1, one thread, p50; "
        f"{rows[0]['machine']}; 95 % intervals over images). All networks of a line keep the same "
        "limit. Uniform width chooses its input size by the library's estimate and may stay below "
        "the limit; magnitude and random keep the largest size. The baselines' normalization is "
        "re-estimated on images, nnfactory's needs none:"
    )
    groups: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        key = (row["library"], row["classes"], row["latency_share"])
        groups.setdefault(key, {})[row["method"]] = row
    cells = []
    for (library, classes, share), found in groups.items():
        whole = found.get("full, masked logits")
        mine = whole or found["plan"]
        what = "full network" if whole else f"{float(share):.0%}"
        names = ("uniform width", "magnitude", "random modules")
        cells.append([
            f"{library}, {classes} classes (n={mine['images']}), {what}",
            f"{float(mine['latency_ms']):.2f}",
            f"{float(mine['mparams']):.2f}, {float(mine['mmacs']):.0f}",
            _metric(mine), *("" if whole else _metric(found[name]) for name in names),
        ])  # fmt: skip
    columns = ["library, classes", "ms", "M params, MMACs", "nnfactory", "uniform width",
               "magnitude", "random"]  # fmt: skip
    ends = [_ahead(rows, library) for library in sorted({row["library"] for row in rows})]
    return "\n".join([section(text, columns, cells), *ends]) + "\n"


def _ahead(rows: list[dict[str, str]], library: str) -> str:
    """How far the plans of a library are ahead of the baselines, from worst to best."""
    parts = []
    for method in ("random modules", "uniform width", "magnitude"):
        gaps = [
            float(row["plan_ahead"])
            for row in rows
            if (row["library"], row["method"]) == (library, method)
        ]
        parts.append(f"{method} by {100 * min(gaps):+.1f} to {100 * max(gaps):+.1f} points")
    return (
        f"- `{library}`: ahead of {', '.join(parts)} (negative is behind; intervals in "
        "`specialization.csv`)."
    )


def _metric(row: Row) -> str:
    return f"{row['metric']} {interval(row)}"


def _generation() -> str:
    """Time to make a network."""
    cells = []
    for row in read_rows("generation"):
        name = f"{row['what']} ({row['library']})" if row["library"] else row["what"]
        name = f"`{name}`" if name.startswith("nnfactory") else name
        ms = float(row["median_ms"])
        cells.append([name, f"{ms:.0f} ms" if ms < 10_000 else f"{ms / 1000:.0f} s", row["n"]])
    text = "Time to make a network (`generation.csv`):"
    return section(text, ["what", "median", "n"], cells)


def _jetson() -> str:
    """Held-out error of the latency estimate."""
    rows = [row for row in read_rows("jetson_predictor") if row["in_domain"] == "1"]
    if not rows:
        return ""
    errors = [abs(math.log(float(row["ratio"]))) for row in rows]
    mean = math.expm1(sum(errors) / len(errors))
    return (
        "The Jetson latency estimate was fitted on published TensorRT FP16 measurements of "
        f"{len(rows)} convolutional networks; with a network's family held out the estimate is off "
        f"by {100 * mean:.0f} % on average (`jetson_predictor.csv`). Nothing "
        "as small as most of our networks was measured, so intervals widen below "
        f"{min(float(row['measured_ms']) for row in rows):.2f} ms.\n"
    )


def _raspberry_pi() -> str:
    """Held-out errors of the latency and energy estimates."""
    rows = read_rows("raspberrypi_predictor")
    if not rows:
        return ""
    worst = {
        quantity: max(float(row["mean error"]) for row in rows if row["quantity"] == quantity)
        for quantity in ("latency", "energy")
    }
    count = sum(int(row["networks"]) for row in rows if row["quantity"] == "latency")
    return (
        "The Raspberry Pi 5's latency and energy estimates were fitted on published ONNX Runtime "
        f"measurements of {count} networks; with a network's input size held out they are off by "
        f"at most {100 * worst['latency']:.0f} and {100 * worst['energy']:.0f} % on average "
        "(`raspberrypi_predictor.csv`).\n"
    )


def _few_shot() -> str:
    """Accuracy on classes that the library has never seen."""
    rows = [row for row in read_rows("few_shot") if row["method"] != "scope"]
    if not rows:
        return ""
    text = (
        "Five classes that the library has never seen, from a few examples of each "
        "(`nnfactory build --examples`); top-1 on held-out images, mean over "
        f"{rows[0]['tasks']} tasks (95 % intervals of the paired difference from the full network; "
        "`few_shot.csv`):"
    )
    cells = []
    for data, shots in dict.fromkeys((row["data"], row["shots"]) for row in rows):
        mine = {r["method"]: r for r in rows if (r["data"], r["shots"]) == (data, shots)}
        cells.append([
            f"{data}, {shots}", f"{float(mine['full']['value']):.3f}",
            *(
                f"{float(mine[share]['value']):.3f} ({float(mine[share]['difference']):+.3f} "
                f"[{float(mine[share]['d_low']):+.3f}, {float(mine[share]['d_high']):+.3f}])"
                for share in ("0.5", "0.25")
            ),
        ])  # fmt: skip
    built = [row for row in rows if row["covered"]]
    held = sum(float(row["covered"]) for row in built) / len(built)
    columns = ["images, examples a class", "full network", "half of the latency", "a quarter"]
    return section(text, columns, cells) + (
        "\nBuilding reports the accuracy on examples that were left out; its 90 % interval held "
        f"the accuracy on held-out images in {100 * held:.0f} % of "
        f"{sum(int(row['tasks']) for row in built)} cases.\n"
    )


def _task_training() -> str:
    """What nnfactory builds without training, beside networks that were trained for the task."""
    rows = read_rows("task_training")
    lines = []
    for library in dict.fromkeys(row["library"] for row in rows):
        mine = [row for row in rows if row["library"] == library]
        built = next(row for row in mine if row["what"] == "generated")
        others = []
        for row in mine:
            if row is built:
                continue
            name = row["what"].removeprefix("generated minus ")
            others.append(
                f"{points(row, 'value', sign='+')} points against {name} "
                f"({float(row['seconds']):.0f} s)"
            )
        lines.append(
            f"- `{library}`, {built['n']} tasks, {float(built['seconds']):.1f} s of CPU: "
            + ", ".join(others)
        )
    if not lines:
        return ""
    head = (
        "Built without training at a quarter of the latency, against networks that were trained "
        "for the task at the same measured latency: the same shape trained from scratch, and the "
        "full network pruned by torch-pruning (magnitude, Taylor) and fine-tuned for 10 epochs "
        "(`task_training.csv`; paired, 95 % intervals, positive is ahead):"
    )
    return "\n".join((head, "", *lines)) + "\n"


def _coverage() -> str:
    """How often the interval of an estimated accuracy holds what is measured."""
    rows = read_rows("estimate_coverage")
    if not rows:
        return ""
    shares = []
    for library in dict.fromkeys(row["library"] for row in rows):
        found = {
            images: [row for row in rows if (row["library"], row["images"]) == (library, images)]
            for images in ("validation", "test")
        }
        held = {
            images: sum(float(row["coverage"]) for row in mine) / len(mine)
            for images, mine in found.items()
        }
        shares.append(
            f"`{library}` in {100 * held['validation']:.0f} % on validation images and in "
            f"{100 * held['test']:.0f} % on test images"
        )
    networks = sum(int(row["networks"]) for row in rows if row["images"] == "test")
    return (
        f"The 90 % intervals of estimated accuracies held what was measured of {networks} "
        f"networks, of {', of '.join(shares)} (`estimate_coverage.csv`).\n"
    )


def _budget_keeping() -> str:
    """How often a budget was broken."""
    rows = read_rows("budget_keeping")
    if not rows:
        return ""
    builds = sum(int(row["builds"]) for row in rows if row["budget"] == "latency_ms")
    by_estimate = sum(int(row["estimated_broken"]) for row in rows)
    latency = sum(int(row["measured_broken"]) for row in rows if row["budget"] == "latency_ms")
    memory = [row for row in rows if row["budget"] == "memory_mib"]
    others = sum(
        int(row["measured_broken"])
        for row in rows
        if row["budget"] not in ("latency_ms", "memory_mib")
    )
    worst = max(float(row["worst_ratio"]) for row in memory)
    return (
        f"{builds} builds under one to five random budgets on this machine broke {by_estimate} by "
        f"the estimate. Measured again afterwards, the latency was broken in {latency}, "
        f"parameters, multiply-adds and file size in {others}, the memory in "
        f"{sum(int(row['measured_broken']) for row in memory)} of "
        f"{sum(int(row['builds']) for row in memory)}, where ONNX Runtime allocates up to "
        f"{100 * (worst - 1):.1f} % more than was counted (`budget_keeping.csv`).\n"
    )


def _ways_of_choosing() -> str:
    """All ways of choosing modules, as differences from the one that builds."""
    rows = read_rows("assembler_quality")
    parts = []
    for library in dict.fromkeys(row["library"] for row in rows):
        mine = [row for row in rows if row["library"] == library]
        shares = sorted({float(row["share"]) for row in mine if row["share"] != "1.0"})
        cell = {(row["method"], float(row["share"])): row for row in mine}
        full = cell["full, masked logits", 1.0]["value"]
        text = (
            f"### {library}\n\n{mine[0]['metric']} on test images, mean over "
            f"{max(int(row['tasks']) for row in mine)} tasks (full network with masked logits "
            f"{float(full):.3f}); below a line of shared curves points of difference from it, "
            "paired, with 95 % intervals:"
        )
        again = ("shared curves, again", "built", "uniform width")  # measured together by --sizes
        known = dict.fromkeys(row["method"] for row in mine)
        others = [method for method in known if method not in ("shared curves", *again)]
        methods = ["shared curves", *others, *(method for method in again if method in known)]
        cells = [
            [method, *(_choice_cell(cell.get((method, share))) for share in shares)]
            for method in methods
            if method != "full, masked logits"
        ]
        columns = ["way", *(f"{100 * share:.0f} % of the latency" for share in shares)]
        picture = f"![{library}](../benchmarks/results/assembler_quality_{library}.png)\n"
        parts.append(f"{section(text, columns, cells)}\n{picture}")
    return "\n".join(parts)


def _choice_cell(row: Row | None) -> str:
    if row is None:
        return ""
    if not row["difference"]:
        return f"{float(row['value']):.3f}"
    tasks = f" ({row['tasks']} tasks)" if int(row["tasks"]) < 10 else ""
    return points(row, "difference", "d_low", "d_high", sign="+") + tasks


_PAGES: dict[str, Sequence[Callable[[], str]]] = {
    "README.md": (
        _library_quality, _specialization, _task_training, _generation, _budget_keeping,
        _coverage, _few_shot, _jetson, _raspberry_pi,
    ),
    "docs/ways-of-choosing.md": (_ways_of_choosing,),
    "docs/disassembly.md": disassembly_tables.TABLES,
    "docs/reassembly.md": reassembly_tables.TABLES,
}  # fmt: skip


if __name__ == "__main__":
    main()
