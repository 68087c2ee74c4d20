"""Write the figures of the README from the result files.

    python benchmarks/readme_figures.py [--check]

Replaces what stands between the two ``figures`` marks. With ``--check`` nothing is written and
the exit code is 1 when the README is not up to date.
"""

from __future__ import annotations

import csv
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
    parts = [_specialization(), _generation(), _jetson()]
    text = "\n".join(part for part in parts if part)
    return _BLOCK.sub(lambda match: f"{match[1]}{text}{match[2]}", readme)


def _rows(name: str) -> list[dict[str, str]]:
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _specialization() -> str:
    """Accuracy at equal measured latency, per library and task size."""
    rows = _rows("specialization")
    if not rows:
        return ""
    lines = [
        "Accuracy on test images of the task's classes at equal latency (ONNX Runtime, CPU, "
        f"FP32, batch 1, one thread, p50; {rows[0]['machine']}; 95 % intervals over images; "
        "`specialization.csv`):",
        "",
        "| library, classes | network | ms | M params | MMACs | accuracy | nnfactory ahead by |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = "" if row["latency_share"] == "1.0" else f" at {float(row['latency_share']):.0%}"
        method = "**nnfactory**" if row["method"] == "plan" else row["method"]
        ahead = ""
        if row["plan_ahead"]:
            ahead = (
                f"{float(row['plan_ahead']):+.3f} [{float(row['plan_ahead_low']):+.3f}, "
                f"{float(row['plan_ahead_high']):+.3f}]"
            )
        lines.append(
            f"| {row['library']}, {row['classes']} ({row['tasks']} task"
            f"{'s' if row['tasks'] != '1' else ''}, n={row['images']}) | {method}{share} | "
            f"{float(row['latency_ms']):.2f} | {float(row['mparams']):.2f} | "
            f"{float(row['mmacs']):.0f} | {row['metric']} {float(row['value']):.3f} "
            f"[{float(row['low']):.3f}, {float(row['high']):.3f}] | {ahead} |"
        )
    return "\n".join(lines) + "\n"


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
    rows = _rows("jetson_predictor")
    if not rows:
        return ""
    return (
        "The Jetson latency estimate was fitted on published TensorRT FP16 measurements of "
        f"{len(rows)} networks; every network's error with its family held out is in "
        "`jetson_predictor.csv`.\n"
    )


if __name__ == "__main__":
    main()
