"""A learned generator of module values: from a task and a budget to the worth of every group."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnfactory.factory.datasets import Images
from nnfactory.factory.graph.network import Array
from nnfactory.factory.supernet.importance import image_losses, random_tasks
from nnfactory.factory.supernet.network import Classifier, Detector

BATCH = {"cls": 128, "det": 16}
RATE = 3e-3
SHARES = (0.2, 0.75)  # of the full cost, drawn evenly in the logarithm
COOLING = (1.0, 0.1)  # temperature of the soft choice, first and last
HARD_FROM = 1 / 3  # of the steps: then groups run or do not


class ValueGenerator(nn.Module):
    """Value per cost of every group, falling within a block.

    A task is the mean of what one network makes of its classes' rows in the last layer (Zaheer et
    al., "Deep Sets", arXiv:1703.06114), so any set of classes goes in, also ones never seen
    together; the budget goes in as a share of the full cost.
    """

    rows: Tensor

    def __init__(self, rows: Array, full: Sequence[int]) -> None:
        super().__init__()
        self.full = tuple(full)
        self.register_buffer("rows", torch.from_numpy(rows).float() * math.sqrt(rows.shape[1]))
        self.of_class = nn.Sequential(nn.Linear(rows.shape[1], 128), nn.ReLU(), nn.Linear(128, 64))
        self.of_task = nn.Sequential(
            nn.Linear(64 + 3, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
            nn.Linear(256, 2 * len(full)),
        )  # fmt: skip
        nn.init.zeros_(self.of_task[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.of_task[-1].bias)  # type: ignore[arg-type]
        self.level = nn.Parameter(torch.zeros(len(full)))
        self.fall = nn.ParameterList([nn.Parameter(torch.full((most,), -2.5)) for most in full])

    def forward(self, allowed: Tensor, share: Tensor) -> Tensor:
        """Log of the value per cost (B, groups) for tasks (B, K) bool and shares (B,)."""
        members = allowed.float()
        size = members.sum(1, keepdim=True)
        task = members @ self.of_class(self.rows) / size
        budget = torch.stack((share, share.log(), size[:, 0].log() / 5), 1)
        level, steeper = self.of_task(torch.cat((task, budget), 1)).chunk(2, 1)
        parts = [
            (self.level[block] + level[:, block])[:, None]
            - F.softplus(fall[None] + steeper[:, block : block + 1]).cumsum(1)
            for block, fall in enumerate(self.fall)
        ]
        return torch.cat(parts, 1)


class SoftChoice(torch.autograd.Function):
    """Gates sigmoid((value - price) / temperature) that cost exactly the budget.

    The price is found by bisection, and the gradient goes through it: a budget is kept by
    construction, no penalty weighs it against the loss.
    """

    @staticmethod
    def forward(ctx, values, costs, budget, temperature):
        """Gates (B, G) of values (B, G) whose costs (G,) add up to the budget (B,)."""
        low = values.min(1, keepdim=True)[0] - 20 * temperature
        high = values.max(1, keepdim=True)[0] + 20 * temperature
        for _ in range(50):
            price = (low + high) / 2
            spent = (torch.sigmoid((values - price) / temperature) * costs).sum(1, keepdim=True)
            over = spent > budget[:, None]
            low, high = torch.where(over, price, low), torch.where(over, high, price)
        gates = torch.sigmoid((values - (low + high) / 2) / temperature)
        ctx.save_for_backward(gates, costs)
        ctx.temperature = temperature
        return gates

    @staticmethod
    def backward(ctx, gradient):
        """Of the values alone."""
        gates, costs = ctx.saved_tensors
        slope = gates * (1 - gates) / ctx.temperature
        paid = costs * slope  # how the price moves with every value, but for its sum
        through = (gradient * slope).sum(1, keepdim=True) / (paid.sum(1, keepdim=True) + 1e-9)
        return gradient * slope - paid * through, None, None, None


def learn_generator(
    network: Classifier | Detector, images: Images, rows: Array, costs: Array, fixed: float, *,
    steps: int, seed: int = 0, report: Callable[[int, int], None] = lambda done, total: None,
) -> ValueGenerator:  # fmt: skip
    """Train the generator on the frozen supernet with random tasks and budgets.

    Args:
        network: The supernet; narrowed networks normalize with the statistics of the batch.
        images: Training images.
        rows: Description of every class (K, C).
        costs: Of every group as a share of the full cost, (groups,).
        fixed: The share that every plan costs.
        steps: Of training.
        seed: Of images, tasks and budgets.
        report: Called with (done, total) steps.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    generator = ValueGenerator(rows, network.full)
    optimizer = torch.optim.Adam(generator.parameters(), RATE)
    price = torch.from_numpy(costs).float()
    batch = BATCH["cls" if isinstance(network, Classifier) else "det"]
    low, high = (math.log(max(share, 1.2 * fixed)) for share in SHARES)
    network.train().requires_grad_(False)
    for step in range(steps):
        done = step / steps
        chosen = images.subset(rng.integers(0, len(images), batch))
        allowed = random_tasks(chosen, len(rows), rng)
        share = math.exp(rng.uniform(low, high))
        temperature = COOLING[0] * (COOLING[1] / COOLING[0]) ** done
        values = generator(allowed, torch.full((batch,), share))
        soft = SoftChoice.apply(values, price, torch.full((batch,), share - fixed), temperature)
        gates = (soft > 0.5).float() + soft - soft.detach() if done > HARD_FROM else soft
        for group in optimizer.param_groups:
            group["lr"] = RATE * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        with torch.autocast("cpu", torch.bfloat16):
            parts = list(torch.split(gates, list(network.full), 1))
            loss = image_losses(network, chosen, network.full, parts, allowed).float().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report(step + 1, steps)
    return generator.eval()


@torch.no_grad()
def generated_curve(
    generator: ValueGenerator, costs: Array, classes: Sequence[int], share: float
) -> Array:
    """Values (1, J) of 0, 1, .. groups of every block for a task and a share of the full cost."""
    allowed = torch.zeros(1, len(generator.rows), dtype=torch.bool)
    allowed[0, list(classes)] = True
    density = generator(allowed, torch.tensor([share]))[0].double().exp().numpy()
    parts, start = [], 0
    for most in generator.full:
        worth = density[start : start + most] * costs[start : start + most]
        parts.append(np.append(0.0, np.cumsum(worth)))
        start += most
    return np.concatenate(parts)[None]
