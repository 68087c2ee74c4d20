"""Training with several processes: who am I, and averaging what they computed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

WAIT = timedelta(days=7)  # the others wait while the first validates
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # a teacher runs on the CPU everywhere


@dataclass(frozen=True, slots=True)
class Group:
    """One of the processes that train together; alone, all of this does nothing.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def average_gradients(self, network: nn.Module) -> None:
        """Give every process the mean of all gradients; one that is missing counts as zero."""
        if self.size == 1:
            return
        parameters = list(network.parameters())
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([part.reshape(-1) for part in parts])
        dist.all_reduce(flat)
        flat /= self.size
        means = torch.split(flat, [p.numel() for p in parameters])
        for parameter, mean in zip(parameters, means, strict=True):
            parameter.grad = mean.view_as(parameter)

    def average_buffers_(self, network: nn.Module) -> None:
        """Give every process the mean of all running statistics."""
        if self.size == 1:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.size

    def add_up_(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def process_group(compute: str) -> Iterator[Group]:
    """The group that ``torchrun`` started this process in, or a group of one.

    Args:
        compute: "cpu" (gloo) or "cuda" (nccl; every process takes the GPU of its local rank).
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group()
        return
    if compute == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(BACKENDS[compute], timeout=WAIT)
    try:
        yield Group(dist.get_rank(), size)
        dist.barrier()  # who leaves first would take its connections from under the others
    finally:
        dist.destroy_process_group()
