"""Taking trained detectors apart: what a component of some classes loses, way by way.

    python benchmarks/detector_components.py --data DIR [--network NAME]

Writes ``results/detector_components.csv``: FastestDet and Yolo-FastestV2 with their COCO weights,
the classes "person" and "car", fitted to and chosen on the training images of ``coco256`` that show
them, AP50 on its validation images.

* masked: the whole network, all 80 classes, boxes of others left out;
* task: what every component is cut from, the rows of the two classes and one for all others;
* ours, images alone, channels alone, magnitude, fpgm, random: as in ``disassembly.py``, all within
  the same measured latency, decoding and suppression of boxes included; "unfitted" is without
  compensation; ``side`` is the input size.

``behind`` and its interval (95 %, by the standard error over bootstrapped images, paired) say how
far AP50 is behind the masked network's. So few images are easy to over-read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnx
from disassembly import by_weights
from pretrained import pretrained
from results_file import data_option, need_data, write_rows
from sized_components import cut, search_of, sized_components, steadily, tables
from steady_latency import Beside

from nnfactory.api.component_case import Case, open_case
from nnfactory.api.request import silent
from nnfactory.factory.accuracy_measurement import matches, run_on_images
from nnfactory.factory.graph.foreign import load_foreign
from nnfactory.factory.graph.network import Network, model_from_network
from nnfactory.factory.metrics import Matches, match_detections
from nnfactory.factory.reuse.detection_head import DetectionHead, HeadMap
from nnfactory.factory.reuse.detector import detector_network
from nnfactory.factory.reuse.detector_answer import with_suppressed_boxes
from nnfactory.factory.reuse.disassembly.component import values_of
from nnfactory.factory.reuse.donor import Donor

CLASSES = ("person", "car")
SHARES = (0.85, 0.7, 0.5)
HEADS = {
    "fastestdet": DetectionHead(
        format="fastestdet",
        maps=(HeadMap(stride=16, objectness="obj", boxes="reg", classes="cls"),),
    ),
    "yolo-fastestv2": DetectionHead(
        format="yolo-fastestv2",
        maps=(
            HeadMap(stride=16, objectness="obj2", boxes="reg2", classes="cls2",
                    anchors=((12.64, 19.39), (37.88, 51.48), (55.71, 138.31))),
            HeadMap(stride=32, objectness="obj3", boxes="reg3", classes="cls3",
                    anchors=((126.91, 78.23), (131.57, 214.55), (279.92, 258.87))),
        ),
    ),
}  # fmt: skip


@click.command()
@data_option
@click.option("--network", "names", multiple=True, type=click.Choice(list(HEADS)))
def main(data_dir: Path, names: tuple[str, ...]) -> None:
    """Compare ways of cutting components out of trained detectors."""
    need_data(data_dir)
    for name in names or HEADS:
        rows = []
        for row in _components(data_dir, name):
            rows.append(row)
            click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
        click.echo(write_rows("detector_components", rows, replace=("network",)))


def detector_of(data_dir: Path, name: str) -> Donor:
    """A detector with normalization folded."""
    one = pretrained(data_dir, name)
    listed = json.loads((data_dir / "coco256" / "annotations.json").read_text())
    with TemporaryDirectory() as folder:
        onnx.save(model_from_network(one.network), place := Path(folder) / "network.onnx")
        network = load_foreign(place)
    return Donor(
        name=name, network=network, mean=one.mean, std=one.std, colors=one.colors,
        labels=tuple(entry["name"] for entry in listed["categories"]), license=one.licence,
        head=HEADS[name],
    )  # fmt: skip


def _components(data_dir: Path, name: str) -> Iterator[dict[str, object]]:
    donor = detector_of(data_dir, name)
    case = open_case(donor, data_dir / "coco256", CLASSES, 1000)
    whole = detector_network(donor, range(len(donor.labels)), [])
    masked = _masked(case, whole)

    clock = Beside(with_suppressed_boxes(whole, HEADS[name], len(donor.labels)))
    base_ms = clock.whole_ms

    def measured_ms(network: Network) -> float:
        return clock(case.kind.answering(network))

    def row(
        way: str, share: object, found: Matches, ms: float, side: int = donor.input_size
    ) -> dict[str, object]:
        rng, count = np.random.default_rng(0), found.images
        draws = [rng.multinomial(count, np.full(count, 1 / count)) for _ in range(1000)]
        gaps = [masked.ap50(weights) - found.ap50(weights) for weights in draws]
        gap, half = masked.ap50() - found.ap50(), 1.96 * float(np.std(gaps))  # as Matches.interval
        each = [value for value in found.class_ap50() if value is not None]
        return {
            "network": name, "classes": " ".join(CLASSES), "way": way, "share": share,
            "side": side, "latency": round(ms / base_ms, 3), "ap50": round(found.ap50(), 4),
            "images": count,
            "behind": round(gap, 4), "low": round(gap - half, 4), "high": round(gap + half, 4),
            "least_class": round(min(each), 4),
        }  # fmt: skip

    yield row("masked", "", masked, base_ms)
    task_ms = measured_ms(case.anatomy.network)
    yield row("task", "", _matches(case, case.anatomy.network), task_ms)
    costs = tables(case, measured_ms)
    values = values_of(case.anatomy, case.kind, case.fitting)
    for share in SHARES:
        search = search_of(case, costs, share * base_ms, measured_ms)
        for way, losses in by_weights(case).items():
            plan = search.plan(way, losses)
            if plan is None:
                continue
            component = case.made(plan, silent)
            ms = steadily(measured_ms, component.network)
            yield row(f"{way}, fitted", share, _matches(case, component.network), ms)
            yield row(way, share, _matches(case, plan.network), ms)
        best = cut(case, search, values)
        if best is not None:
            ms = steadily(measured_ms, best.network)
            yield row("channels alone", share, _matches(case, best.network), ms)
            yield row("channels alone, unfitted", share, _matches(case, best.plan.network), ms)
        pair = sized_components(case, share * base_ms, measured_ms)
        for way, one in zip(("ours", "images alone"), pair, strict=True):
            if one is not None:
                ms = steadily(measured_ms, one.made.network)
                yield row(way, share, _matches(one.case, one.made.network), ms, one.case.size)


def _matches(case: Case, network: Network) -> Matches:
    return matches(case.kind.answering(network), case.measuring, len(CLASSES))


def _masked(case: Case, whole: Network) -> Matches:
    """The whole network with boxes of other classes left out."""
    labels = case.donor.outputs_of(CLASSES)
    every = len(case.donor.labels)
    answering = with_suppressed_boxes(whole, HEADS[case.donor.name], every)
    found = []
    for rows in run_on_images(answering, case.measuring.pixels):
        mine = rows[np.isin(rows[:, 5], labels) & (rows[:, 4] > 0)].copy()
        mine[:, 5] = [labels.index(int(label)) for label in mine[:, 5]]
        found.append(mine)
    return match_detections(found, case.measuring.boxes, len(CLASSES))


if __name__ == "__main__":
    main()
