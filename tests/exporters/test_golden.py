"""Golden vectors: drawn, repeatable, and complete."""

import io
import json

import numpy as np
import pytest
from onnx import numpy_helper

from nnfactory.exporters import golden
from nnfactory.exporters.metadata import apply_metadata_
from nnfactory.exporters.runtime.nnf_runtime import Runtime, preprocess


def test_image_depends_on_the_seed_alone():
    assert np.array_equal(golden.golden_image(3), golden.golden_image(3))
    assert not np.array_equal(golden.golden_image(3), golden.golden_image(4))
    assert golden.golden_image().std() > 30


def test_png_is_read_back_exactly():
    image = pytest.importorskip("PIL.Image")
    pixels = golden.golden_image()
    read = image.open(io.BytesIO(golden.png_from_pixels(pixels)))
    assert np.array_equal(np.asarray(read), pixels)


def test_golden_vectors_belong_together(shared_artifact):
    folder = shared_artifact / "golden"
    runtime = Runtime(shared_artifact, threads=1)
    tensor = np.load(folder / "input.npy", allow_pickle=False)
    image = golden.golden_image()
    assert np.array_equal(tensor, preprocess(image, runtime.preprocess_spec))
    assert np.allclose(runtime.infer(tensor), np.load(folder / "output.npy"), atol=1e-6)
    recorded = json.loads((folder / "answer.json").read_text())
    assert recorded["answer"] == runtime(image, conf=recorded["confidence"]).summary()
    assert recorded["answer"]


def test_weak_detector_still_has_an_answer_to_compare(toy, tmp_path):
    network = toy.network()
    bias = numpy_helper.to_array(network.graph.initializer[1]).copy()
    bias.reshape(100, 6)[:, 4] *= 0.01
    network.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "bias"))
    weight = numpy_helper.to_array(network.graph.initializer[0]).copy()
    weight.reshape(3, 100, 6)[:, :, 4] = 0
    network.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    apply_metadata_(network, toy.metadata(toy.plan()))
    (tmp_path / "model.onnx").write_bytes(network.SerializeToString())
    golden.write_golden(tmp_path / "golden", tmp_path / "model.onnx")
    recorded = json.loads((tmp_path / "golden" / "answer.json").read_text())
    assert 0 < recorded["confidence"] < 0.01
    assert recorded["answer"]
