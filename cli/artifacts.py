"""``bench``, ``verify``, ``inspect`` and ``run``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from ..factory.errors import InconclusiveError, UsageError, VerificationError
from ..factory.schema import Measurement
from . import options
from .build_facts import measurement_text
from .builds import measurement_table
from .output import console, print_json


@click.command(short_help="Measure an artifact or an ONNX file.")
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="ARTIFACT|ONNX")
@click.option("--device", default="host", show_default=True, metavar="NAME", help="Where.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=3.0,
    show_default=True,
    help="Time spent on timed runs.",
)
@options.json_option
def bench(path: Path, device: str, threads: int, seconds: float, as_json: bool) -> None:
    """Measure the latency of one image.

    \b
    nnfactory bench det-host-1a2b3c4d
    nnfactory bench model.onnx --threads 2 --json
    """
    from .. import api

    measurement = api.bench(path, device=device, threads=threads, seconds=seconds)
    disturbed = measurement.verdict == "INCONCLUSIVE"
    if not as_json:
        _print_measurement(measurement)
    elif not disturbed:
        print_json(measurement_table(measurement))
    if disturbed:
        raise InconclusiveError(
            f"The latency of {path} could not be judged: {measurement.reason}.",
            hints=["the same again when the machine is idle"],
            details={"result": measurement_table(measurement)},
        )


def _print_measurement(measurement: Measurement) -> None:
    out = console()
    out.print(measurement_text(measurement))
    out.print(f"{measurement.verdict}: {measurement.reason}")
    for name, value in measurement.conditions.items():
        out.print(f"  {name}: {value}")


@click.command(short_help="Check an artifact: hashes, golden vectors, module library.")
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="ARTIFACT")
@options.json_option
def verify(path: Path, as_json: bool) -> None:
    """Check hashes, the network, its golden vectors and its module library.

    \b
    nnfactory verify det-host-1a2b3c4d
    nnfactory verify det-host-1a2b3c4d --json
    """
    from .. import api

    checks = api.verify(path)
    failed = [check.name for check in checks if check.passed is False]
    if as_json and not failed:
        print_json({"passed": True, "checks": checks})
    elif not as_json:
        for check in checks:
            word = {True: "PASS", False: "FAIL", None: "SKIP"}[check.passed]
            console().print(f"{word}  {check.name}: {check.text}")
    if failed:
        raise VerificationError(
            f"{path} failed: {', '.join(failed)}.",
            details={"checks": [{"name": c.name, "passed": c.passed} for c in checks]},
        )


@click.command(short_help="Inputs, outputs, operators, size and metadata of a network.")
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="ARTIFACT|ONNX")
@click.option("--imgsz", type=click.IntRange(1), help="Input size, where a file leaves it open.")
@options.json_option
def inspect(path: Path, imgsz: int | None, as_json: bool) -> None:
    """Show inputs, outputs, operators, size, structure and metadata.

    \b
    nnfactory inspect det-host-1a2b3c4d
    nnfactory inspect model.onnx --json
    """
    from .. import api

    facts = api.inspect(path, input_size=imgsz)
    if as_json:
        print_json(facts)
        return
    out = console()
    mib = facts["bytes"] / 2**20
    out.print(f"[bold]{escape(facts['file'])}[/]  {mib:.2f} MiB, opset {facts['opset']}, "
              f"IR {facts['ir_version']}")  # fmt: skip
    for name in ("inputs", "outputs"):
        for tensor, shape in facts[name].items():
            out.print(f"  {name[:-1]:7} {tensor} float32 {shape}")
    out.print(
        f"  {facts['parameters'] / 1e6:.3f} M parameters, {facts['macs'] / 1e6:.1f} MMACs, "
        f"peak memory {facts['peak_memory_bytes'] / 2**20:.2f} MiB"
    )
    out.print("  operators: " + ", ".join(f"{op} {n}" for op, n in facts["operators"].items()))
    groups, points = facts["channel_groups"], facts["cut_points"]
    out.print(
        f"  {groups['removable']} removable channel groups in {groups['families']} families, "
        f"{len(points)} cut points"
    )
    for name, operator in groups["not_understood"].items():
        out.print(f"  not understood, so nothing around it is cut: {operator} {name}", markup=False)
    for key, value in facts["metadata"].items():
        text = value if len(value) <= 80 else value[:77] + "..."
        out.print(f"  {key}: {text}", markup=False)


@click.command(short_help="Answer for one image: draw boxes or print classes.")
@click.argument("path", type=click.Path(exists=True, path_type=Path), metavar="ARTIFACT")
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--conf", type=click.FloatRange(0, 1), help="Least score of a detection.")
@click.option(
    "--save",
    type=options.PATH,
    help="Where the drawn picture goes [default: <image>-detections.png here].",
)
@options.json_option
def run(path: Path, image: Path, conf: float | None, save: Path | None, as_json: bool) -> None:
    """Answer for one image: draw boxes on it, or print classes.

    \b
    nnfactory run det-host-1a2b3c4d photo.jpg
    nnfactory run cls-host-1a2b3c4d photo.jpg --json
    """
    import json

    from .. import api

    results = api.run(path, image, confidence=conf)
    place = save
    if results.boxes is not None and (save is not None or not as_json):
        from PIL import Image

        place = save or Path(f"{image.stem}-detections.png")
        try:
            Image.fromarray(results.plot()).save(place)
        except (OSError, ValueError) as error:
            raise UsageError(f"The picture cannot be saved as {place}: {error}.") from error
    if as_json:
        click.echo(results.tojson())
        return
    out = console()
    entries = json.loads(results.tojson())
    for entry in entries:
        box = entry.get("box")
        where = "" if box is None else "  " + " ".join(f"{k} {v:.0f}" for k, v in box.items())
        out.print(f"{entry['confidence']:.3f}  {entry['name']}{where}", markup=False)
    if not entries:
        out.print("nothing found; --conf lowers the least score")
    if place is not None and results.boxes is not None:
        out.print(f"drawn: {place}")
    out.print("  ".join(f"{phase} {ms:.1f} ms" for phase, ms in results.speed.items()))
