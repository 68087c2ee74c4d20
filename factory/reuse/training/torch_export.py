"""A torch module as an ONNX file, checked against the module."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ...errors import DataError, NNFactoryError, VerificationError
from ...graph.evaluate import open_model
from ...graph.network import OPSET

TOLERANCE = 1e-3  # of the greatest output


def onnx_from_module(
    module: nn.Module, *, input_size: int, state_dict: Mapping[str, Tensor] | None = None
) -> bytes:
    """Export a module, in evaluation mode.

    Args:
        module: Of images (B, 3, S, S); it is left as it is, but for the weights of ``state_dict``.
        input_size: Side S of the image in pixels.
        state_dict: Weights to load first.

    Raises:
        DataError: The weights do not fit, or torch cannot say the module in ONNX.
        VerificationError: The file computes something else than the module.
    """
    modes = {part: part.training for part in module.modules()}
    try:
        if state_dict is not None:
            module.load_state_dict(dict(state_dict))
        module.eval()
        return _exported(module, input_size)
    except NNFactoryError:
        raise
    except Exception as error:  # whatever the module's own code raises
        raise DataError(f"The module cannot be exported: {error!r}") from error
    finally:
        for part, mode in modes.items():
            part.training = mode


def _exported(module: nn.Module, input_size: int) -> bytes:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, input_size, input_size, generator=generator)
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # that there is another exporter, which needs more packages
        expected = module(image)
        if not isinstance(expected, Tensor):
            raise DataError(f"The module gives {type(expected).__name__}, not one tensor.")
        file = Path(folder) / "module.onnx"
        torch.onnx.export(
            module, (image,), file, dynamo=False, opset_version=OPSET, input_names=["images"],
            output_names=["output"],
        )  # fmt: skip
        model = file.read_bytes()
    found = open_model(onnx.load_model_from_string(model))({"images": image.numpy()})
    worst = float(np.abs(found["output"] - expected.numpy()).max())
    if not worst <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise VerificationError(f"The exported file and the module differ by {worst:.2e}.")
    return model
