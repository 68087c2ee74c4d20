"""Train a plain and an inception network for CIFAR-10, to be taken apart by disassembly.py.

    python benchmarks/cifar_networks.py --data DIR [--network NAME] [--out DIR] [--resume]

Writes ``<out>/vgg16-quarter.onnx`` and ``<out>/googlenet-small.onnx`` (raw logits of images 32 x 32
that are normalized with the mean and deviation below), and their accuracy on the test images to
``results/cifar_networks.csv``. Every epoch is kept in ``<out>``, so that ``--resume`` goes on with
what an interrupted run had reached.

Both are in the manner of the published networks (VGG-16: Simonyan and Zisserman 2014, with batch
normalization and a quarter of the width; GoogLeNet: Szegedy et al. 2014, its 5x5 branch as two 3x3
layers, with batch normalization), small enough for a core and an hour.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import torch
from results_file import data_option, need_data, write_rows
from torch import Tensor, nn
from torch.nn import functional as F

from nnfactory.factory.datasets import read_pack
from nnfactory.factory.reuse.training.torch_export import onnx_from_module

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)  # of the training images
EPOCHS, BATCH, RATE, DECAY, SMOOTHING = 16, 128, 0.1, 5e-4, 0.1
FOLDER = Path(__file__).resolve().parents[1] / "runs" / "cifar_networks"


def layer(inside: int, out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution with normalization and rectifier."""
    conv = nn.Conv2d(inside, out, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


class Inception(nn.Module):
    """Four branches side by side: 1x1; 3x3; two 3x3; pooling and 1x1."""

    def __init__(self, inside: int, one: int, three: int, five: int, pooled: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                layer(inside, one, 1),
                nn.Sequential(layer(inside, three // 2, 1), layer(three // 2, three)),
                nn.Sequential(
                    layer(inside, five // 2, 1), layer(five // 2, five), layer(five, five)
                ),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), layer(inside, pooled, 1)),
            ]
        )
        self.out = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        """Channels of all branches, (B, self.out, H, W)."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def vgg16_quarter() -> nn.Module:
    """Thirteen convolutions of VGG-16 at a quarter of the width, and one linear layer."""
    layers: list[nn.Module] = []
    inside = 3
    for out, count in ((16, 2), (32, 2), (64, 3), (128, 3), (128, 3)):
        for _ in range(count):
            layers.append(layer(inside, out))
            inside = out
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inside, 10))


def googlenet_small() -> nn.Module:
    """Six inception blocks at 16, 8 and 4 pixels."""
    layers: list[nn.Module] = [layer(3, 24), layer(24, 32, stride=2)]
    inside = 32
    for width, count in ((64, 2), (128, 2), (192, 2)):
        for _ in range(count):
            block = Inception(inside, width // 4, width // 2, width // 8, width // 8)
            layers.append(block)
            inside = block.out
        layers.append(nn.MaxPool2d(3, 2, 1) if width < 192 else nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inside, 10))


NETWORKS = {"vgg16-quarter": vgg16_quarter, "googlenet-small": googlenet_small}


@click.command()
@data_option
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)))
@click.option("--out", "folder", type=click.Path(path_type=Path), default=FOLDER)
@click.option("--resume", is_flag=True, help="Go on with what is in the folder.")
def main(data_dir: Path, names: tuple[str, ...], folder: Path, resume: bool) -> None:
    """Train networks and say how good they are on test images."""
    images, labels = _pack(need_data(data_dir) / "cifar10_jpeg" / "train.npz")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or NETWORKS:
        torch.manual_seed(0)
        network = NETWORKS[name]().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        seconds = train(network, images, labels, folder / f"{name}.pt", resume=resume)
        (folder / f"{name}.onnx").write_bytes(onnx_from_module(network, input_size=32))
        right = accuracy(network, *_pack(data_dir / "cifar10_jpeg" / "test.npz"))
        row = {
            "network": name, "accuracy": round(right, 4), "images": 10000, "epochs": EPOCHS,
            "mparams": round(sum(p.numel() for p in network.parameters()) / 1e6, 3),
            "minutes": round(seconds / 60, 1),
        }  # fmt: skip
        click.echo(write_rows("cifar_networks", [row], replace=("network",)))


def train(network: nn.Module, images: Tensor, labels: Tensor, kept: Path, *, resume: bool) -> float:
    """Train by stochastic gradient descent with a cosine; returns the seconds it took.

    Args:
        network: Of normalized images.
        images: (N, 3, 32, 32), uint8.
        labels: (N,).
        kept: File that holds the state after every epoch.
        resume: Begin with that file.
    """
    optimizer = torch.optim.SGD(
        network.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=DECAY
    )
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.2)
    first, seconds = 0, 0.0
    if resume and kept.is_file():
        state = torch.load(kept, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first, seconds = state["epochs"], state["seconds"]
    for epoch in range(first, EPOCHS):
        began = time.perf_counter()
        loss = _epoch(network, optimizer, schedule, images, labels, epoch)
        seconds += time.perf_counter() - began
        state = {
            "network": network.state_dict(), "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(), "epochs": epoch + 1, "seconds": seconds,
        }  # fmt: skip
        part = kept.with_suffix(".part")
        torch.save(state, part)
        part.replace(kept)
        click.echo(f"{kept.stem}: epoch {epoch + 1} of {EPOCHS}, loss {loss:.3f}, {seconds:.0f} s")
    return seconds


def _epoch(
    network: nn.Module, optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler, images: Tensor, labels: Tensor, epoch: int,
) -> float:  # fmt: skip
    """One pass over the images, shifted and mirrored at random; returns the mean loss."""
    network.train()
    generator = torch.Generator().manual_seed(epoch)
    order = torch.randperm(len(images), generator=generator)
    losses = []
    for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
        seen = _views(images[batch], generator)
        loss = F.cross_entropy(network(seen), labels[batch], label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def _views(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images shifted by up to four pixels, half of them mirrored, and normalized."""
    count, side = len(images), images.shape[2]
    padded = F.pad(normalized(images), (4,) * 4)
    shifts = torch.randint(0, 9, (2, count, 1), generator=generator)
    rows = shifts[0] + torch.arange(side)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = shifts[1] + torch.arange(side)
    columns = torch.where(mirrored, columns.flip(1), columns)
    picked = padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)  # (B, H, W, C) in memory, which is channels_last


def normalized(images: Tensor) -> Tensor:
    """Images (N, 3, S, S), uint8, as the networks want them."""
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in (MEAN, STD))
    return (images.float() / 255 - mean) / std


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose class is the greatest logit."""
    network.eval()
    found = torch.cat([network(normalized(part)).argmax(1) for part in images.split(500)])
    return float((found == labels).float().mean())


def _pack(file: Path) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(read_pack(file)).permute(0, 3, 1, 2)
    return pixels, torch.from_numpy(np.load(file)["label"].astype(np.int64))


if __name__ == "__main__":
    main()
