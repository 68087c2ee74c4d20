"""Training state on disk, as safetensors: resuming loses nothing and executes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import DataError
from .recipe import Recipe, recipe_from_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training stands.

    Attributes:
        step: Finished optimizer steps.
        seconds: Time spent in training so far, over all sessions.
        recipe: The recipe as plain values; resuming with another one is refused.
    """

    step: int
    seconds: float
    recipe: dict[str, object]


def save_checkpoint(
    path: Path,
    average: nn.Module,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write averaged and current weights, optimizer moments and progress.

    The old file stays until the new one is whole.
    """
    names = {id(p): name for name, p in network.named_parameters()}
    tensors = {f"network.{key}": value for key, value in network.state_dict().items()}
    tensors |= {f"average.{key}": value for key, value in average.state_dict().items()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"optimizer.{key}.{names[id(parameter)]}"] = torch.as_tensor(value)
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    note = {"step": progress.step, "seconds": progress.seconds, "recipe": progress.recipe}
    beside = path.with_suffix(".partial")
    save_file(tensors, beside, metadata={"progress": json.dumps(note)})
    beside.replace(path)


def load_checkpoint(
    path: Path,
    average: nn.Module,
    network: nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Progress:
    """Restore what :func:`save_checkpoint` wrote, as far as it is asked for.

    Raises:
        DataError: The file is damaged or belongs to another architecture.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads(file.metadata()["progress"])
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        average.load_state_dict(_below(tensors, "average."))
        if network is not None:
            network.load_state_dict(_below(tensors, "network."))
        if network is not None and optimizer is not None:
            for name, parameter in network.named_parameters():
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    if f"optimizer.{key}.{name}" in tensors:
                        moved = tensors[f"optimizer.{key}.{name}"]
                        target = "cpu" if key == "step" else parameter.device
                        optimizer.state[parameter][key] = moved.to(target)
        return Progress(step=note["step"], seconds=note["seconds"], recipe=note["recipe"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} is no checkpoint of this recipe: {error}.") from error


def read_recipe(run_dir: Path) -> Recipe:
    """The recipe that a training run was started with.

    Raises:
        DataError: The folder holds no training run.
    """
    try:
        table = json.loads((run_dir / "recipe.json").read_text(encoding="utf-8"))
        return recipe_from_table(table)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{run_dir} holds no training run: {error}.",
            hints=["'nnfactory modules train' makes one"],
        ) from error


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
