"""Which kind of block a supernet should be made of: accuracy, latency and time to train.

    python benchmarks/block_types.py --data DIR [--steps N] [--network NAME]

Writes ``results/block_types.csv``. Two kinds of residual block are compared at 32 pixels:

* fused: a dense 3x3 convolution into the hidden channels, then a 1x1 projection;
* inverted: 1x1 expansion, 3x3 depthwise convolution, 1x1 projection (MobileNetV2).

The networks have about the same multiply-adds. Each is trained plainly for as many steps of 128
images, on the training images of Tiny-ImageNet, with the augmentation of the supernet; accuracy is
top-1 on validation images with its 95 % Wilson interval. Latencies are medians of ONNX Runtime on
one thread, all in turn with the fused network, whole and with a half and a quarter of the hidden
channels. Training seconds are CPU time per step.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click
import numpy as np
import onnx
import torch
from results_file import data_option, need_data, write_rows
from torch import Tensor, nn
from torch.nn import functional as F

from nnfactory.devices.measure import measure_interleaved
from nnfactory.devices.runners.onnxruntime import OnnxRuntimeRunner
from nnfactory.factory.datasets import DataSet, Images, load_dataset
from nnfactory.factory.graph.costs import op_costs, parameter_count
from nnfactory.factory.graph.network import network_from_model, tensor_shapes
from nnfactory.factory.metrics import proportion_interval
from nnfactory.factory.supernet.augment import augment_cls, random_views, tensor_from_pixels

SIZE, CLASSES, BATCH = 32, 200, 128
RATE, WEIGHT_DECAY, WARMUP, SMOOTHING = 2e-3, 0.05, 0.05, 0.05
FRACTIONS = (1.0, 0.5, 0.25)  # of the hidden channels
REPEATS = 100


@dataclass(frozen=True)
class Stage:
    """Blocks of one resolution; the first one halves it."""

    kind: str
    channels: int
    hidden: int
    blocks: int


NETWORKS = {
    "fused": (
        Stage("fused", 48, 64, 2), Stage("fused", 96, 192, 3), Stage("fused", 192, 320, 2),
    ),
    "inverted": (
        Stage("inverted", 48, 224, 2), Stage("inverted", 96, 448, 4),
        Stage("inverted", 192, 896, 2),
    ),
    "fused, then inverted": (
        Stage("fused", 48, 64, 2), Stage("fused", 96, 192, 3), Stage("inverted", 192, 896, 2),
    ),
}  # fmt: skip
STEM = 24


class Block(nn.Module):
    """A residual block of either kind."""

    def __init__(self, kind: str, inside: int, channels: int, hidden: int, stride: int) -> None:
        super().__init__()
        if kind == "fused":
            layers = _conv(inside, hidden, 3, stride)
        else:
            layers = [
                *_conv(inside, hidden, 1), nn.ReLU(), *_conv(hidden, hidden, 3, stride, hidden)
            ]  # fmt: skip
        self.branch = nn.Sequential(*layers, nn.ReLU(), *_conv(hidden, channels, 1))
        self.base = nn.Sequential()
        if stride == 2:
            self.base = nn.Sequential(nn.AvgPool2d(2), *_conv(inside, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Base plus branch."""
        return cast(Tensor, self.base(x) + self.branch(x))


def network_of(stages: tuple[Stage, ...], fraction: float = 1.0) -> nn.Sequential:
    """A classifier of those stages with a fraction of their hidden channels."""
    layers: list[nn.Module] = [*_conv(3, STEM, 3), nn.ReLU()]
    inside = STEM
    for stage in stages:
        hidden = round(stage.hidden * fraction) // 8 * 8
        for number in range(stage.blocks):
            stride = 1 if number else 2
            layers.append(Block(stage.kind, inside, stage.channels, hidden, stride))
            inside = stage.channels
    layers += [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, CLASSES)]
    return nn.Sequential(*layers)


def _conv(
    inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outside)]


@click.command()
@data_option
@click.option("--steps", default=1000, show_default=True, help="Training steps of every network.")
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)))
def main(data_dir: Path, steps: int, names: tuple[str, ...]) -> None:
    """Compare kinds of block."""
    need_data(data_dir)
    data = load_dataset("cls", data_dir / "tinyimagenet32_jpeg", splits=("train", "validation"))
    latencies = _latencies()
    for name in names or tuple(NETWORKS):
        row = {"network": name, **_costs(NETWORKS[name]), **latencies[name]}
        row |= _trained(NETWORKS[name], data, steps)
        click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
        write_rows("block_types", [row], replace=("network", "steps"))


def _model(stages: tuple[Stage, ...], fraction: float = 1.0) -> bytes:
    """The network as ONNX, normalization folded."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network_of(stages, fraction).eval(), (torch.rand(1, 3, SIZE, SIZE),),
            Path(folder, "network.onnx"), dynamo=False, opset_version=17, input_names=["images"],
        )  # fmt: skip
        return Path(folder, "network.onnx").read_bytes()


def _latencies() -> dict[str, dict[str, object]]:
    """Milliseconds of every network at every fraction."""
    models = {
        (name, fraction): _model(stages, fraction)
        for name, stages in NETWORKS.items()
        for fraction in FRACTIONS
    }
    with OnnxRuntimeRunner(models["fused", 1.0]) as reference:
        runners = [OnnxRuntimeRunner(model) for model in models.values()]
        samples = measure_interleaved(runners, reference, REPEATS)
        for runner in runners:
            runner.close()
    whole = float(np.median([np.median(beside.wall_ms) for _, beside in samples]))
    rows: dict[str, dict[str, object]] = {name: {} for name in NETWORKS}
    for (name, fraction), (mine, beside) in zip(models, samples, strict=True):
        ratio = float(np.median(mine.wall_ms)) / float(np.median(beside.wall_ms))
        rows[name][f"ms_at_{fraction:g}"] = round(ratio * whole, 4)
    return rows


def _costs(stages: tuple[Stage, ...]) -> dict[str, object]:
    """Multiply-adds, parameters and convolutions."""
    network = network_from_model(onnx.load_model_from_string(_model(stages)))
    macs = sum(cost.macs for cost in op_costs(network, tensor_shapes(network)))
    return {
        "mmacs": round(macs / 1e6, 2),
        "mparams": round(parameter_count(network) / 1e6, 4),
        "convolutions": sum(node.op_type == "Conv" for node in network.nodes),
    }


def _trained(stages: tuple[Stage, ...], data: DataSet, steps: int) -> dict[str, object]:
    """Validation accuracy after so many steps, and CPU seconds of one."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = network_of(stages).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=WARMUP, cycle_momentum=False
    )
    started = time.process_time()
    for _ in range(steps):
        index = rng.integers(0, len(data.train), BATCH)
        pixels = tensor_from_pixels(data.train.pixels[index])
        inputs = augment_cls(pixels, random_views(BATCH, SIZE, rng), rng)
        labels = torch.from_numpy(data.train.labels[index])
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(inputs.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = (time.process_time() - started) / steps
    correct = _correct(network.eval(), data.validation)
    top1 = proportion_interval(correct, len(data.validation))
    return {
        "steps": steps, "seconds_per_step": round(seconds, 3),
        "top1": round(top1.value, 4), "low": round(top1.low, 4), "high": round(top1.high, 4),
        "n": top1.n,
    }  # fmt: skip


@torch.no_grad()
def _correct(network: nn.Module, images: Images) -> int:
    found = 0
    for start in range(0, len(images), 500):
        answers = network(tensor_from_pixels(images.pixels[start : start + 500])).argmax(1)
        found += int((answers.numpy() == images.labels[start : start + 500]).sum())
    return found


if __name__ == "__main__":
    main()
