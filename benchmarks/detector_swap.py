"""Backbone of one detector, neck and head of another: joined in closed form.

    python benchmarks/detector_swap.py --data DIR

Writes ``results/detector_swap.csv``: FastestDet and Yolo-FastestV2 have backbones of one shape with
other weights. Between the stages of the one and the neck of the other come 1x1 convolutions,
fitted by ridge regression towards the identity on the training images of ``coco256``, which need
no boxes; AP50 of all classes on its validation images:

* own: a detector as it is;
* wired: the other's stages, without stitches;
* stitched: with stitches, neck and head as they were;
* fitted: the neck and the head are fitted, too, layer by layer, to what they made of their own
  backbone.

``low`` and ``high`` are AP50's interval (95 %). So few images are easy to over-read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from detector_components import HEADS, detector_of
from disassembly import latency_ms
from onnx import NodeProto, helper
from results_file import data_option, need_data, write_rows

from nnfactory.factory.accuracy_measurement import matches
from nnfactory.factory.datasets import Images
from nnfactory.factory.datasets.labelled import read_labelled
from nnfactory.factory.graph.network import (
    Array,
    Network,
    renamed_inputs,
    tensor_shapes,
    without_dead_nodes,
)
from nnfactory.factory.reuse.detector import detector_network
from nnfactory.factory.reuse.detector_answer import with_suppressed_boxes
from nnfactory.factory.reuse.disassembly.compensation import compensated
from nnfactory.factory.reuse.disassembly.kinds import tensors_of

STAGES = ("stage2.3", "stage3.7", "stage4.3")  # the last blocks of each


@click.command()
@data_option
def main(data_dir: Path) -> None:
    """Swap the backbones of two detectors."""
    place = need_data(data_dir) / "coco256"
    donors = {name: detector_of(data_dir, name) for name in HEADS}
    networks = {
        name: detector_network(donor, range(len(donor.labels)), [])
        for name, donor in donors.items()
    }
    size = next(iter(donors.values())).input_size
    fitting, testing = (
        read_labelled(place, [size], kind="det", prefer=(part,)).images[size]
        for part in ("train", "validation")
    )
    rows = []
    for back in HEADS:
        (front,) = set(HEADS) - {back}
        for row in _rows(networks[front], networks[back], (front, back), fitting, testing):
            rows.append(row)
            click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
    click.echo(write_rows("detector_swap", rows))


def _rows(
    front: Network, back: Network, names: tuple[str, str], fitting: Images, testing: Images
) -> Iterator[dict[str, object]]:
    head, tensors = HEADS[names[1]], tensors_of(fitting)
    labels = back.outputs[head.maps[0].classes][1]

    def row(way: str, network: Network) -> dict[str, object]:
        answering = with_suppressed_boxes(network, head, labels)
        found = matches(answering, testing, labels).interval()
        return {
            "backbone": names[1] if way == "own" else names[0], "head": names[1], "way": way,
            "ap50": round(found.value, 4), "low": round(found.low, 4),
            "high": round(found.high, 4), "images": found.n,
            "latency_ms": round(latency_ms(answering), 3),
        }  # fmt: skip

    yield row("own", back)
    wired = swapped(front, back, stitches=False)
    yield row("wired", wired)
    open_ = swapped(front, back, stitches=True)
    fitted = compensated(back, open_, {}, tensors)
    stitches = [name for name in open_.weights if name.startswith("stitch/")]
    only = replace(open_, weights={**open_.weights, **{n: fitted.weights[n] for n in stitches}})
    yield row("stitched", only)
    yield row("fitted", fitted)


def swapped(front: Network, back: Network, *, stitches: bool) -> Network:
    """The stages of one network with the neck and the head of another.

    Args:
        front: Whose stages.
        back: Whose neck and head; its tensors keep their names.
        stitches: Put 1x1 convolutions between both, which do nothing yet.
    """
    joints = dict(zip(_stages(front), _stages(back), strict=True))
    (entry,) = back.inputs
    nodes, weights = [], {**back.weights}
    names = {entry: entry}
    for node in front.nodes:
        copy = renamed_inputs(node, {name: names.get(name, f"front/{name}") for name in node.input})
        for place, out in enumerate(node.output):
            names[out] = f"front/{out}"
            copy.output[place] = names[out]
        copy.name = f"front/{node.name}"
        nodes.append(copy)
    weights |= {f"front/{name}": array for name, array in front.weights.items()}
    nodes += _joined(front, back, joints, weights, stitches=stitches)
    made = set(joints.values())
    nodes += [node for node in back.nodes if not made & set(node.output)]
    whole = replace(back, nodes=tuple(nodes), weights=weights)
    return without_dead_nodes(whole)


def _joined(
    front: Network, back: Network, joints: dict[str, str], weights: dict[str, Array], *,
    stitches: bool,
) -> Iterator[NodeProto]:  # fmt: skip
    """What makes the tensors that the neck reads."""
    shapes = [tensor_shapes(network) for network in (front, back)]
    for mine, theirs in joints.items():
        if not stitches:
            yield helper.make_node("Relu", [f"front/{mine}"], [theirs], name=f"join/{theirs}")
            continue
        inside, out = shapes[0][mine][1], shapes[1][theirs][1]
        matrix, bias = (f"stitch/{theirs}/{part}" for part in ("matrix", "bias"))
        weights[matrix] = np.eye(out, inside, dtype=np.float32)[:, :, None, None]
        weights[bias] = np.zeros(out, np.float32)
        yield helper.make_node(
            "Conv", [f"front/{mine}", matrix, bias], [theirs], name=f"join/{theirs}",
            kernel_shape=[1, 1],
        )  # fmt: skip


def _stages(network: Network) -> Sequence[str]:
    """The tensors in which the stages end: what is put together last in their last blocks."""
    ends = []
    for stage in STAGES:
        last = max(
            place for place, node in enumerate(network.nodes)
            if f"backbone.{stage}.branch_main" in node.name
        )  # fmt: skip
        after = network.nodes[last].output[0]
        while True:
            node = next(node for node in network.nodes if after in node.input)
            after = node.output[0]
            if node.op_type == "Concat":
                break
        ends.append(after)
    return ends


if __name__ == "__main__":
    main()
