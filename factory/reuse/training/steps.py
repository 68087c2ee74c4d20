"""How far the weights of a network that was trained before may move in a step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

USUAL = 0.05  # root mean square of a kernel's weights


def scaled_steps(parameters: Iterable[Tensor]) -> list[dict[str, Any]]:
    """A group for each of an optimizer's parameters, with the "scale" of its learning rate.

    Adam moves weights by the same whatever their size is. Kernels that normalization was folded
    into, or that read pixels up to 255, are small and must move by less.
    """
    return [{"params": [each], "scale": _scale(each)} for each in parameters]


def _scale(parameter: Tensor) -> float:
    if parameter.ndim < 2:
        return 1.0
    return min(1.0, float(parameter.detach().square().mean().sqrt()) / USUAL)
