"""Torch modules as ONNX files: they compute the same, and what cannot be said is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from nnfactory.factory.errors import DataError, VerificationError
from nnfactory.factory.graph.evaluate import open_model

torch = pytest.importorskip("torch")
from nnfactory.factory.reuse.training import torch_export  # noqa: E402
from nnfactory.factory.reuse.training.torch_export import onnx_from_module  # noqa: E402


def module(seed: int = 0):
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.SiLU(),
        torch.nn.Dropout(0.5), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    )  # fmt: skip
    layers[1].running_mean.uniform_(-1, 1)
    return layers


def test_the_file_computes_what_the_module_does_in_evaluation():
    one = module()
    model = onnx.load_model_from_string(onnx_from_module(one, input_size=16))
    onnx.checker.check_model(model)
    image = torch.randn(1, 3, 16, 16)
    assert one.training
    with torch.no_grad():
        expected = one.eval()(image).numpy()
    found = open_model(model)({"images": image.numpy()})["output"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_state_dict_is_loaded_first():
    one, other = module(0), module(1)
    assert onnx_from_module(one, input_size=16, state_dict=other.state_dict()) == onnx_from_module(
        other, input_size=16
    )
    with pytest.raises(DataError, match="cannot be exported"):
        onnx_from_module(one, input_size=16, state_dict={"0.weight": torch.zeros(1)})


def test_what_is_no_network_of_one_output_is_refused():
    class Two(torch.nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(DataError, match="not one tensor"):
        onnx_from_module(Two(), input_size=8)
    with pytest.raises(DataError, match="cannot be exported"):
        onnx_from_module(torch.nn.Linear(5, 2), input_size=8)

    class Broken(torch.nn.Module):
        def forward(self, x):
            raise AttributeError("no such thing")

    with pytest.raises(DataError, match="no such thing"):
        onnx_from_module(Broken(), input_size=8)


def test_a_module_is_left_in_the_modes_it_was_in():
    one = module()
    one[1].eval()
    modes = [part.training for part in one.modules()]
    onnx_from_module(one, input_size=16)
    assert [part.training for part in one.modules()] == modes


def test_a_file_that_computes_something_else_is_refused(monkeypatch):
    monkeypatch.setattr(torch_export, "TOLERANCE", -1.0)
    with pytest.raises(VerificationError, match="differ by"):
        onnx_from_module(module(), input_size=16)
