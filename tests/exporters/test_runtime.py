"""The runtime that is copied into artifacts."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfactory.exporters import golden, metadata
from nnfactory.exporters.runtime import nnf_runtime

DET = metadata.preprocess_spec("det", (64, 96))
SIDES = st.integers(1, 200)


@pytest.fixture
def artifact(shared_artifact, tmp_path):
    return Path(shutil.copytree(shared_artifact, tmp_path / "artifact"))


def run_script(*words: object, folder: Path, code: str = "") -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    start = ["-c", code] if code else [str(folder / "python" / "nnf_runtime.py")]
    return subprocess.run(
        [sys.executable, *start, *map(str, words)],
        capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"}, cwd=folder,
    )  # fmt: skip


def independent_resize(image: np.ndarray, height: int, width: int, antialias: bool) -> np.ndarray:
    """Pillow's filter widens when shrinking, torch's does not; both in float."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)  # (3, H, W)
    if antialias:
        pillow = pytest.importorskip("PIL.Image")
        size, how = (width, height), pillow.Resampling.BILINEAR
        resized = [np.asarray(pillow.fromarray(plane).resize(size, how)) for plane in planes]
        return np.stack(resized, -1)
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(planes)[None]
    resize = torch.nn.functional.interpolate
    resized = resize(tensor, (height, width), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("antialias", [False, True])
@settings(max_examples=30, deadline=None)
@given(source=st.tuples(SIDES, SIDES), target=st.tuples(SIDES, SIDES), seed=st.integers(0, 99))
def test_resize_equals_an_independent_bilinear_one(antialias, source, target, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*source, 3), np.uint8)
    found = nnf_runtime.resize(image, target[0], target[1], antialias)
    expected = independent_resize(image, target[0], target[1], antialias)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 0.5 + 1e-2  # rounded to whole levels


@settings(max_examples=50, deadline=None)
@given(height=SIDES, width=SIDES)
def test_letterbox_holds_the_image_on_grey_and_is_centered(height, width):
    image = np.full((height, width, 3), 7, np.uint8)
    tensor = nnf_runtime.preprocess(image, DET)
    assert tensor.shape == (1, 3, 64, 96)
    assert tensor.dtype == np.float32
    inside = np.isclose(tensor[0, 0], 7 / 255)
    assert np.isclose(tensor[0, 0][~inside], 114 / 255).all()
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert len(rows) * len(columns) == inside.sum()
    for first, last, side in ((rows[0], rows[-1], 64), (columns[0], columns[-1], 96)):
        assert 0 <= (side - 1 - last) - first <= 1  # an odd padding is larger at the end
    assert len(rows) == 64 or len(columns) == 96


@pytest.mark.parametrize(
    ("shape", "place"),
    [((48, 96), (64, 128, 32, 0)), ((100, 64), (128, 82, 0, 23)), ((100, 65), (128, 83, 0, 22))],
)
def test_letterbox_rounding_of_known_cases(shape, place):
    spec = metadata.preprocess_spec("det", (128, 128))
    assert nnf_runtime.placement(shape[0], shape[1], spec)[:4] == place


@settings(deadline=None)
@given(
    height=st.integers(8, 2000), width=st.integers(8, 2000),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)  # fmt: skip
def test_boxes_come_back_to_where_they_were(height, width, corners):
    _, _, top, left, gain = nnf_runtime.placement(height, width, DET)
    x, y = np.sort(np.array(corners[:2]) * width), np.sort(np.array(corners[2:]) * height)
    box = np.array([x[0], y[0], x[1], y[1]])
    row = np.array([*(box * gain + (left, top, left, top)), 0.5, 3], np.float32)
    found = nnf_runtime.boxes_in_image(row[None], (height, width), DET, 0.25)
    assert np.abs(found[0, :4] - box).max() < 1e-3 * max(1.0, max(height, width) / 100)
    assert found[0, 4:].tolist() == [0.5, 3]


def test_boxes_are_clipped_to_the_image_and_filtered():
    rows = np.array([[-50, -50, 500, 500, 0.9, 1], [0, 0, 9, 9, 0.25, 0], [0] * 6], np.float32)
    found = nnf_runtime.boxes_in_image(rows, (32, 48), DET, 0.25)
    assert found[:, :4].tolist() == [[0, 0, 48, 32]]


@settings(max_examples=50, deadline=None)
@given(height=SIDES, width=SIDES)
def test_center_crop_fills_the_input_and_keeps_the_middle(height, width):
    spec = metadata.preprocess_spec("cls", (32, 32))
    tall, wide, top, left, _ = nnf_runtime.placement(height, width, spec)
    assert min(tall, wide) == 32
    assert abs((tall - 32) + 2 * top) <= 1
    assert abs((wide - 32) + 2 * left) <= 1
    tensor = nnf_runtime.preprocess(np.full((height, width, 3), 255, np.uint8), spec)
    assert tensor.shape == (1, 3, 32, 32)
    assert (tensor == 1).all()


def test_image_of_the_input_size_is_only_scaled():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for kind in ("cls", "det"):
        tensor = nnf_runtime.preprocess(image, metadata.preprocess_spec(kind, (32, 32)))
        assert np.allclose(tensor[0].transpose(1, 2, 0) * 255, image, atol=1e-4)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32),
     np.zeros((0, 4, 3), np.uint8), [[1]]],
)  # fmt: skip
def test_other_arrays_are_refused(image):
    with pytest.raises(ValueError, match="uint8 array"):
        nnf_runtime.preprocess(image, DET)


def test_answer_has_the_usual_accessors(shared_artifact):
    image = golden.golden_image()
    results = nnf_runtime.Runtime(shared_artifact, threads=1)(image)
    assert results.orig_shape == (240, 320)
    assert set(results.speed) == {"preprocess", "inference", "postprocess"}
    entries = json.loads(results.tojson())
    if results.boxes is not None:
        assert results.boxes.xyxy.shape == (len(results), 4)
        assert (results.boxes.conf > 0.25).all()
        assert entries[0]["name"] == results.names[int(results.boxes.cls[0])]
        assert set(entries[0]["box"]) == {"x1", "y1", "x2", "y2"}
    else:
        assert results.probs is not None
        assert results.probs.top1 == results.probs.top5[0] == int(results.probs.data.argmax())
        assert results.probs.top1conf == pytest.approx(results.probs.data.max())
        assert len(entries) == 5
    drawn = results.plot()
    assert drawn.shape == image.shape
    assert not np.array_equal(drawn, image)
    assert np.array_equal(results.orig_img, golden.golden_image())


def test_frames_are_drawn_without_pillow(shared_artifact, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    results = nnf_runtime.Runtime(shared_artifact, threads=1)(golden.golden_image())
    assert np.array_equal(results.plot(), results.orig_img) == (results.boxes is None)
    with pytest.raises(ImportError, match="pip install pillow"):
        nnf_runtime.read_image(shared_artifact / "golden/input.png")
    assert all(passed for _, passed, _ in nnf_runtime.selftest(shared_artifact))


def test_runtime_names_what_is_missing(toy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.onnx"):
        nnf_runtime.Runtime(tmp_path)
    (tmp_path / "model.onnx").write_bytes(toy.network().SerializeToString())
    with pytest.raises(ValueError, match="no metadata"):
        nnf_runtime.Runtime(tmp_path)


@pytest.mark.parametrize("name", ["nnf_runtime.py", "build_engine.py"])
def test_copied_files_are_python_3_8(name):
    source = (Path(nnf_runtime.__file__).parent / name).read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 8))


def test_runtime_needs_numpy_and_onnxruntime_alone(artifact):
    code = (
        "import sys; sys.path.insert(0, 'python'); import nnf_runtime, numpy\n"
        "r = nnf_runtime.Runtime('.')(numpy.zeros((9, 7, 3), 'uint8'))\n"
        "print(sorted({'torch', 'onnx', 'nnfactory', 'PIL', 'cv2', 'scipy'} & set(sys.modules)))"
    )
    done = run_script(folder=artifact, code=code)
    assert done.stdout.strip() == "[]", done.stderr


def test_selftest_passes_from_the_shell_and_prints_the_answer(artifact):
    done = run_script("--selftest", folder=artifact)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "PASS"), done.stderr
    assert "max difference" in done.stdout
    done = run_script(artifact, artifact / "golden/input.png", "--plot", "p.png", folder=artifact)
    assert json.loads(done.stdout)[0]["confidence"] > 0
    assert (artifact / "p.png").is_file()
    done = run_script(artifact, artifact / "absent.png", folder=artifact)
    assert (done.returncode, done.stdout) == (1, "")
    assert "absent.png" in done.stderr


@pytest.mark.parametrize(
    "name", ["model.onnx", "golden/input.npy", "golden/output.npy", "golden/answer.json"]
)
def test_selftest_fails_after_damage(artifact, name, capsys):
    content = bytearray((artifact / name).read_bytes())
    content[len(content) // 2] ^= 64
    (artifact / name).write_bytes(content)
    assert nnf_runtime.main(["--selftest", str(artifact)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAIL"
    (artifact / "manifest.json").unlink()
    assert nnf_runtime.main(["--selftest", str(artifact)]) == 1


@pytest.mark.parametrize("name", ["input.png", "input.npy", "output.npy", "answer.json"])
def test_selftest_compares_numbers_and_not_only_hashes(artifact, monkeypatch, name):
    monkeypatch.setattr(nnf_runtime, "_check_files", lambda folder: ("files", True, "not checked"))
    path = artifact / "golden" / name
    if name == "input.png":
        path.write_bytes(golden.png_from_pixels(golden.golden_image(9)))
    elif name == "answer.json":
        path.write_text(path.read_text().replace('"class": ', '"class": 1'))
    else:
        wrong = np.load(path)
        wrong[0, 0] += 0.2
        np.save(path, wrong)
    assert not all(passed for _, passed, _ in nnf_runtime.selftest(artifact))


def test_equal_scores_may_change_places_but_not_boxes():
    tolerance = golden.TOLERANCE
    rows = np.zeros((1, 100, 6), np.float32)
    rows[0, :3] = [[1, 2, 3, 4, 0.5, 0], [5, 6, 7, 8, 0.5, 0], [5, 6, 7, 8, 0.5, 1]]
    swapped = rows[:, [1, 2, 0, *range(3, 100)]]
    assert nnf_runtime._check_output(swapped, rows, "detect", tolerance)[1]
    for column, step in ((0, 0.5), (4, 0.01), (5, 1), (0, np.nan), (4, np.nan)):
        wrong = rows.copy()
        wrong[0, 1, column] += step
        assert not nnf_runtime._check_output(wrong, rows, "detect", tolerance)[1]
