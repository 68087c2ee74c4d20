"""Write the figures of the README from the result files.

    python benchmarks/readme_figures.py [--check]

Replaces what stands between the two ``figures`` marks. With ``--check`` nothing is written and
the exit code is 1 when the README is not up to date.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from pathlib import Path

import click

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
_BLOCK = re.compile(r"(<!-- figures:[^\n]*-->\n).*?(<!-- /figures -->)", re.S)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when out of date.")
def main(check: bool) -> None:
    """Bring the README's figures up to date."""
    path = REPOSITORY / "README.md"
    old = path.read_text(encoding="utf-8")
    new = updated(old)
    if check:
        sys.exit(int(old != new))
    path.write_text(new, encoding="utf-8")


def updated(readme: str) -> str:
    """The README with the figures of the result files."""
    parts = [
        _library_quality(),
        _specialization(),
        _generation(),
        _few_shot(),
        _jetson(),
        _raspberry_pi(),
    ]
    text = "\n".join(part for part in parts if part)
    return _BLOCK.sub(lambda match: f"{match[1]}{text}{match[2]}", readme)


def _rows(name: str) -> list[dict[str, str]]:
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


_PARTS = {
    "full": "whole network",
    "cutting": "built at {share} of the latency, against the full network with masked logits",
    "conditioning": "modulated for the task at {share}, against the plain slice",
    "against": "built at a quarter, against {share}",
}


def _library_quality() -> str:
    """What was asked of the libraries and what they reach; bars that are missed included."""
    rows = _rows("library_quality")
    if not rows:
        return ""
    lines = [
        "The libraries on test images (`library_quality.csv`; differences are paired over "
        f"{max(row['n'] for row in rows if row['part'] == 'cutting')} tasks, 95 % intervals):",
        "",
        "| library | what | value | asked for |",
        "|---|---|---|---|",
    ]
    for row in rows:
        what = _PARTS[row["part"]].format(share=row["what"])
        what += f", {row['what']}" if "{share}" not in _PARTS[row["part"]] else ""
        if row["part"] == "cutting" and row["what"].startswith("10 classes"):
            what = "10 classes, built at 0.25 of the latency"
        size = f" ({float(row['mmacs']):.0f} MMACs)" if row["mmacs"] else ""
        low, value, high = (float(row[name]) for name in ("low", "value", "high"))
        bar = f"{float(row['bar']):g}" if row["bar"] else ""
        verdict = {"True": "reached", "False": "**missed**"}.get(row["reached"], "")
        lines.append(
            f"| {row['library']} | {what}{size} | {value:.3f} [{low:.3f}, {high:.3f}] "
            f"| {bar} {verdict} |"
        )
    return "\n".join(lines) + "\n"


def _specialization() -> str:
    """Accuracy at equal measured latency: a line per library, task size and latency."""
    rows = _rows("specialization")
    if not rows:
        return ""
    lines = [
        "Accuracy on test images of the task's classes at half and a quarter of the full network's "
        "measured latency (ONNX Runtime on the CPU, FP32, batch 1, one thread, p50; "
        f"{rows[0]['machine']}; 95 % intervals over images). All networks of a line keep the same "
        "limit. Uniform width chooses its input size by the library's estimate and may stay below "
        "the limit; magnitude and random keep the largest size. The baselines' normalization is "
        "re-estimated on images, nnfactory's needs none:",
        "",
        "| library, classes | ms | M params, MMACs | nnfactory | uniform width | magnitude "
        "| random |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for row in rows:
        key = (row["library"], row["classes"], row["latency_share"])
        groups.setdefault(key, {})[row["method"]] = row
    for (library, classes, share), found in groups.items():
        whole = found.get("full, masked logits")
        mine = whole or found["plan"]
        start = (
            f"| {library}, {classes} classes (n={mine['images']}), "
            f"{'full network' if whole else f'{float(share):.0%}'} | "
            f"{float(mine['latency_ms']):.2f} | {float(mine['mparams']):.2f}, "
            f"{float(mine['mmacs']):.0f} | {_value(mine)} |"
        )
        others = ["", "", ""]
        if not whole:
            names = ("uniform width", "magnitude", "random modules")
            others = [_value(found[name]) for name in names]
        lines.append(f"{start} {' | '.join(others)} |")
    lines += ["", *(_ahead(rows, library) for library in sorted({r["library"] for r in rows}))]
    return "\n".join(lines) + "\n"


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


def _value(row: dict[str, str]) -> str:
    """Metric with its interval."""
    low, value, high = (float(row[name]) for name in ("low", "value", "high"))
    return f"{row['metric']} {value:.3f} [{low:.3f}, {high:.3f}]"


def _generation() -> str:
    """Time to make a network."""
    rows = _rows("generation")
    if not rows:
        return ""
    lines = [
        "Time to make a network (`generation.csv`):",
        "",
        "| what | median | n |",
        "|---|---|---|",
    ]
    for row in rows:
        name = f"{row['what']} ({row['library']})" if row["library"] else f"`{row['what']}`"
        lines.append(f"| {name} | {float(row['median_ms']):.0f} ms | {row['n']} |")
    return "\n".join(lines) + "\n"


def _jetson() -> str:
    """Held-out error of the latency estimate."""
    rows = [row for row in _rows("jetson_predictor") if row["in_domain"] == "1"]
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
    rows = _rows("raspberrypi_predictor")
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
    rows = [row for row in _rows("few_shot") if row["method"] != "scope"]
    if not rows:
        return ""
    lines = [
        "Five classes that the library has never seen, from a few examples of each "
        "(`nnfactory build --examples`); top-1 on held-out images, mean over "
        f"{rows[0]['tasks']} tasks (95 % intervals of the paired difference from the full network; "
        "`few_shot.csv`):",
        "",
        "| images, examples a class | full network | half of the latency | a quarter |",
        "|---|---|---|---|",
    ]
    for data, shots in dict.fromkeys((row["data"], row["shots"]) for row in rows):
        mine = {r["method"]: r for r in rows if (r["data"], r["shots"]) == (data, shots)}
        cells = [f"{float(mine['full']['value']):.3f}"]
        cells += [
            f"{float(mine[share]['value']):.3f} ({float(mine[share]['difference']):+.3f} "
            f"[{float(mine[share]['d_low']):+.3f}, {float(mine[share]['d_high']):+.3f}])"
            for share in ("0.5", "0.25")
        ]
        lines.append(f"| {data}, {shots} | {' | '.join(cells)} |")
    built = [row for row in rows if row["covered"]]
    held = sum(float(row["covered"]) for row in built) / len(built)
    lines.append(
        "\nBuilding reports the accuracy on examples that were left out; its 90 % interval held "
        f"the accuracy on held-out images in {100 * held:.0f} % of "
        f"{sum(int(row['tasks']) for row in built)} cases."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
