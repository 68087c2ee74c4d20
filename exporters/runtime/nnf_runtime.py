#!/usr/bin/env python3
"""Run an nnfactory artifact: one file, numpy and onnxruntime, Python 3.8 or later.

    python nnf_runtime.py FOLDER IMAGE          prints the answer as JSON
    python nnf_runtime.py --selftest [FOLDER]   checks the golden inputs and outputs

In an app::

    from nnf_runtime import Runtime
    results = Runtime("my-artifact")(image)     # (H, W, 3) uint8 RGB, or a path
    print(results.boxes.xyxy, results.boxes.conf, results.boxes.cls)

Everything the file needs to know is in the metadata of ``model.onnx``: the task, the class names
and, as JSON under "nnfactory.preprocess", how an image becomes the input tensor. Pillow is used
to read and draw images if it is installed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Sequence

import numpy as np

CONFIDENCE = 0.25  # detections below it are not reported unless the caller asks for them
SCHEMA = 1  # newest version of the preprocessing spec that this file understands
TASKS = ("detect", "classify")


class Boxes:
    """Detections in one image.

    Attributes:
        data: (N, 6) float32, rows x1, y1, x2, y2 in pixels of the image, score, class.
    """

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    @property
    def xyxy(self) -> np.ndarray:
        """Corners x1, y1, x2, y2 in pixels, (N, 4)."""
        return self.data[:, :4]

    @property
    def conf(self) -> np.ndarray:
        """Scores in [0, 1], (N,)."""
        return self.data[:, 4]

    @property
    def cls(self) -> np.ndarray:
        """Class indices as float32, (N,)."""
        return self.data[:, 5]


class Probs:
    """Class probabilities of one image.

    Attributes:
        data: (K,) float32.
    """

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    @property
    def top1(self) -> int:
        """The most probable class."""
        return int(self.data.argmax())

    @property
    def top5(self) -> list[int]:
        """Up to five classes, the most probable first."""
        return [int(i) for i in np.argsort(-self.data, kind="stable")[:5]]

    @property
    def top1conf(self) -> float:
        """Probability of ``top1``."""
        return float(self.data[self.top1])


class Results:
    """The answer for one image.

    Attributes:
        orig_img: The image, (H, W, 3) uint8 RGB.
        orig_shape: Its (height, width).
        names: Class index to name.
        boxes: Detections, or None for a classifier.
        probs: Probabilities, or None for a detector.
        speed: Milliseconds of "preprocess", "inference" and "postprocess".
        path: Where the image came from, or "".
    """

    def __init__(
        self,
        image: np.ndarray,
        names: dict[int, str],
        boxes: Boxes | None = None,
        probs: Probs | None = None,
    ) -> None:
        self.orig_img = image
        self.orig_shape = tuple(image.shape[:2])
        self.names = names
        self.boxes = boxes
        self.probs = probs
        self.speed: dict[str, float] = {}
        self.path = ""

    def __len__(self) -> int:
        return 1 if self.boxes is None else len(self.boxes)

    def summary(self) -> list[dict[str, Any]]:
        """One table per detection, or per class of the top five."""
        if self.probs is not None:
            return [self._entry(label, self.probs.data[label]) for label in self.probs.top5]
        entries = []
        for row in [] if self.boxes is None else self.boxes.data:
            entry = self._entry(int(row[5]), row[4])
            corners = (round(float(value), 4) for value in row[:4])
            entry["box"] = dict(zip(("x1", "y1", "x2", "y2"), corners))
            entries.append(entry)
        return entries

    def _entry(self, label: int, confidence: float) -> dict[str, Any]:
        name = self.names.get(label, str(label))
        return {"name": name, "class": label, "confidence": round(float(confidence), 6)}

    def tojson(self) -> str:
        """:meth:`summary` as JSON."""
        return json.dumps(self.summary(), indent=2, ensure_ascii=False)

    def plot(self) -> np.ndarray:
        """A copy of the image with the answer drawn in, (H, W, 3) uint8 RGB.

        Without Pillow only the frames of boxes are drawn, no names.
        """
        drawn = self.orig_img.copy()
        for row in [] if self.boxes is None else self.boxes.data:
            _draw_frame_(drawn, row[:4], _color(int(row[5])))
        return _with_names(drawn, self.summary())


class Runtime:
    """An artifact, opened: call it with an image.

    Args:
        source: Artifact folder, or the path of its ``model.onnx``.
        threads: Threads of ONNX Runtime; 0 lets it choose.
        providers: Execution providers, best first.

    Raises:
        FileNotFoundError: There is no network at ``source``.
        ValueError: The network was not written by nnfactory, or by a newer one.
    """

    def __init__(
        self,
        source: str | Path,
        threads: int = 0,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        import onnxruntime

        path = Path(source)
        path = path / "model.onnx" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"There is no network {path}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=list(providers)
        )
        metadata = self.session.get_modelmeta().custom_metadata_map
        if metadata.get("task") not in TASKS or "nnfactory.preprocess" not in metadata:
            raise ValueError(f"{path} has no metadata of nnfactory.")
        self.metadata = dict(metadata)
        self.task = metadata["task"]
        self.names = ast.literal_eval(metadata["names"])
        self.preprocess_spec = json.loads(metadata["nnfactory.preprocess"])
        if self.preprocess_spec["version"] > SCHEMA:
            raise ValueError(f"{path} needs a newer nnf_runtime.py.")
        self.input_name = self.session.get_inputs()[0].name

    def infer(self, tensor: np.ndarray) -> np.ndarray:
        """The raw output for a preprocessed input (1, 3, H, W)."""
        return np.asarray(self.session.run(["output0"], {self.input_name: tensor})[0])

    def __call__(self, image: np.ndarray | str | Path, conf: float = CONFIDENCE) -> Results:
        """The answer for one image.

        Args:
            image: (H, W, 3) uint8 RGB, or the path of an image file (read with Pillow).
            conf: Detections with a score of this or less are left out, in [0, 1].

        Raises:
            ValueError: The array is no such image.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        start = time.perf_counter()
        tensor = preprocess(pixels, self.preprocess_spec)
        prepared = time.perf_counter()
        output = self.infer(tensor)
        inferred = time.perf_counter()
        results = self.decode(output, pixels, conf)
        marks = (start, prepared, inferred, time.perf_counter())
        phases = ("preprocess", "inference", "postprocess")
        results.speed = {p: 1e3 * (b - a) for p, a, b in zip(phases, marks, marks[1:])}
        results.path = "" if isinstance(image, np.ndarray) else str(image)
        return results

    def decode(self, output: np.ndarray, image: np.ndarray, conf: float = CONFIDENCE) -> Results:
        """The answer in terms of ``image`` from the raw output of the network."""
        if self.task == "classify":
            return Results(image, self.names, probs=Probs(output[0]))
        rows = boxes_in_image(output[0], image.shape[:2], self.preprocess_spec, conf)
        return Results(image, self.names, boxes=Boxes(rows))


def read_image(path: str | Path) -> np.ndarray:
    """Pixels (H, W, 3), uint8 RGB, of an image file, upright as its EXIF data says."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        message = "Reading image files needs Pillow: pip install pillow, or pass an array."
        raise ImportError(message) from error
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def preprocess(image: np.ndarray, spec: dict[str, Any]) -> np.ndarray:
    """The input tensor (1, 3, H, W), float32 in [0, 1], of an image (h, w, 3), uint8 RGB.

    ``spec`` says how: "resize" is "letterbox" (the whole image, centered on a padding) or
    "center-crop" (the shorter side fits, the longer one is cropped).
    """
    shape: tuple[int, ...] = getattr(image, "shape", ())
    if len(shape) != 3 or shape[2] != 3 or image.dtype != np.uint8 or 0 in shape:
        raise ValueError("An image must be a uint8 array (height, width, 3) in RGB.")
    height, width, top, left, _ = placement(shape[0], shape[1], spec)
    resized = resize(image, height, width, spec["antialias"])  # (height, width, 3)
    rows, columns = spec["size"]
    if spec["resize"] == "letterbox":
        canvas = np.full((rows, columns, 3), spec["pad_value"], np.uint8)
        canvas[top : top + height, left : left + width] = resized
    else:
        canvas = resized[-top : rows - top, -left : columns - left]
    tensor = canvas.transpose(2, 0, 1)[None].astype(np.float32)  # (1, 3, H, W)
    return np.ascontiguousarray(tensor / np.float32(spec["divisor"]))


def placement(height: int, width: int, spec: dict[str, Any]) -> tuple[int, int, int, int, float]:
    """Where an image lies in the network's input.

    Returns:
        Height and width after resizing, top and left offset in pixels (negative where the image
        is cropped), and the gain from image to input pixels.
    """
    rows, columns = spec["size"]
    if spec["resize"] == "letterbox":
        gain = min(rows / height, columns / width)
        new_height = max(1, int(round(height * gain)))
        new_width = max(1, int(round(width * gain)))
        # Odd paddings: the smaller half goes first, as the YOLO family rounds them.
        top = int(round((rows - new_height) / 2 - 0.1))
        left = int(round((columns - new_width) / 2 - 0.1))
        return new_height, new_width, top, left, gain
    if spec["resize"] != "center-crop":
        raise ValueError(f"This runtime does not know the resize {spec['resize']!r}.")
    new_height = max(rows, height * columns // width)
    new_width = max(columns, width * rows // height)
    top, left = -int(round((new_height - rows) / 2)), -int(round((new_width - columns) / 2))
    return new_height, new_width, top, left, max(rows / height, columns / width)


def resize(image: np.ndarray, height: int, width: int, antialias: bool) -> np.ndarray:
    """Bilinear resize of (h, w, C) uint8 to (height, width, C), rounded to whole levels.

    Pixel centers are at half integers. With ``antialias`` the filter widens when shrinking.
    """
    pixels = image.astype(np.float32)
    if height != image.shape[0]:
        pixels = _resize_rows(pixels, height, antialias)
    if width != image.shape[1]:
        pixels = _resize_rows(pixels.swapaxes(0, 1), width, antialias).swapaxes(0, 1)
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def _resize_rows(pixels: np.ndarray, target: int, antialias: bool) -> np.ndarray:
    """Resize the first axis with a triangle filter, tap by tap."""
    source = len(pixels)
    step = source / target
    support = max(step, 1.0) if antialias else 1.0
    centers = (np.arange(target) + 0.5) * step
    first = np.floor(centers - support).astype(int)
    taps = first[:, None] + np.arange(int(math.ceil(2 * support)) + 1)  # (target, taps)
    weights = np.maximum(0.0, 1.0 - np.abs(taps + 0.5 - centers[:, None]) / support)
    weights *= (taps >= 0) & (taps < source)
    weights /= weights.sum(1, keepdims=True)
    taps = taps.clip(0, source - 1)
    resized = np.zeros((target,) + pixels.shape[1:], np.float32)
    for tap in range(taps.shape[1]):
        weight = weights[:, tap]
        if weight.any():
            resized += pixels[taps[:, tap]] * weight.astype(np.float32)[:, None, None]
    return resized


def boxes_in_image(
    rows: np.ndarray, shape: tuple[int, ...], spec: dict[str, Any], conf: float
) -> np.ndarray:
    """Detections (N, 6) in pixels of an image of ``shape``, clipped to it.

    Args:
        rows: (K, 6), x1, y1, x2, y2 in pixels of the network's input, score, class.
        shape: (height, width) of the image.
        spec: How the image became the input.
        conf: Rows with this score or less are left out.
    """
    height, width = shape
    _, _, top, left, gain = placement(height, width, spec)
    kept = rows[rows[:, 4] > conf].astype(np.float32)
    kept[:, [0, 2]] = ((kept[:, [0, 2]] - left) / gain).clip(0, width)
    kept[:, [1, 3]] = ((kept[:, [1, 3]] - top) / gain).clip(0, height)
    return kept


def _color(label: int) -> tuple[int, ...]:
    """A color per class, the same in every image."""
    return tuple(64 + 191 * ((label + 1) * step % 97) // 97 for step in (37, 59, 83))


def _draw_frame_(image: np.ndarray, box: np.ndarray, color: tuple[int, ...]) -> None:
    height, width = image.shape[:2]
    x1, x2 = (int(np.clip(round(float(x)), 0, width - 1)) for x in (box[0], box[2]))
    y1, y2 = (int(np.clip(round(float(y)), 0, height - 1)) for y in (box[1], box[3]))
    line = max(1, min(height, width) // 200)
    frame = np.zeros((y2 + 1 - y1, x2 + 1 - x1), bool)
    frame[:line] = frame[-line:] = frame[:, :line] = frame[:, -line:] = True
    image[y1 : y2 + 1, x1 : x2 + 1][frame] = color


def _with_names(image: np.ndarray, entries: list[dict[str, Any]]) -> np.ndarray:
    """Write the names into the image if Pillow is installed."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        return image
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for line, entry in enumerate(entries):
        text = f"{entry['name']} {entry['confidence']:.2f}"
        text = text.encode("ascii", "replace").decode()  # what every font of Pillow can draw
        box = entry.get("box")
        place = (box["x1"] + 3, box["y1"] + 3) if box else (3, 3 + 12 * line)
        draw.text(place, text, fill=_color(entry["class"]), stroke_width=1, stroke_fill=(0, 0, 0))
    return np.array(canvas)


def selftest(folder: str | Path) -> list[tuple[str, bool, str]]:
    """Check an artifact against its golden inputs and outputs.

    Returns:
        Per check its name, whether it passed, and the largest difference in words.
    """
    folder = Path(folder)
    checks = [_check_files(folder)]
    if not checks[0][1]:
        return checks
    runtime = Runtime(folder, threads=1)
    golden = folder / "golden"
    recorded = json.loads((golden / "answer.json").read_text(encoding="utf-8"))
    tensor = np.load(str(golden / "input.npy"), allow_pickle=False)
    expected = np.load(str(golden / "output.npy"), allow_pickle=False)
    tolerance = recorded["tolerance"]
    checks.append(_check_preprocess(golden / "input.png", tensor, runtime, tolerance))
    checks.append(_check_output(runtime.infer(tensor), expected, runtime.task, tolerance))
    image = np.zeros(tuple(recorded["image_shape"]), np.uint8)
    answer = runtime.decode(expected, image, recorded["confidence"]).summary()
    checks.append(("answer", answer == recorded["answer"], f"{len(answer)} entries"))
    return checks


def _check_files(folder: Path) -> tuple[str, bool, str]:
    """Whether the files are those that the manifest lists."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name, listed in sorted(manifest["files"].items()):
        path = folder / name
        if not path.is_file():
            return ("files", False, f"{name} is missing")
        if hashlib.sha256(path.read_bytes()).hexdigest() != listed["sha256"]:
            return ("files", False, f"{name} was changed")
    return ("files", True, f"{len(manifest['files'])} files as written")


def _check_preprocess(
    path: Path, expected: np.ndarray, runtime: Runtime, tolerance: dict[str, float]
) -> tuple[str, bool, str]:
    try:
        image = read_image(path)
    except ImportError:
        return ("preprocess", True, "skipped, Pillow is not installed")
    found = preprocess(image, runtime.preprocess_spec)
    return _compare("preprocess", found, expected, tolerance["input"])


def _check_output(
    output: np.ndarray, expected: np.ndarray, task: str, tolerance: dict[str, float]
) -> tuple[str, bool, str]:
    """Compare raw outputs; detections by nearest row, since equal scores may change places."""
    if task == "classify" or output.shape != expected.shape:
        return _compare("output", output, expected, tolerance["score"])
    by_score = [np.sort(rows[0, :, 4]) for rows in (output, expected)]
    checked = _compare("output", by_score[0], by_score[1], tolerance["score"])
    pairs = ((output[0], expected[0]), (expected[0], output[0]))
    worst = max(_farthest(rows, others, tolerance) for rows, others in pairs)
    text = f"{checked[2]}; boxes off by {worst:.3g} of the tolerance"
    return ("output", checked[1] and worst <= 1, text)


def _farthest(rows: np.ndarray, others: np.ndarray, tolerance: dict[str, float]) -> float:
    """Largest distance, in tolerances, from a detection to the nearest one of its class.

    The lowest scores are left out: a tie decides which of them are among the rows at all.
    """
    scale = np.array([tolerance["box_px"]] * 4 + [tolerance["score"]], np.float32)
    worst = 0.0
    for row in rows[rows[:, 4] > others[:, 4].min() + tolerance["score"]]:
        apart = np.abs(others[others[:, 5] == row[5], :5] - row[:5]) / scale  # (M, 5)
        worst = max(worst, float(apart.max(1).min()) if len(apart) else math.inf)
    return worst if np.isfinite(rows).all() else math.inf


def _compare(
    name: str, found: np.ndarray, expected: np.ndarray, tolerance: float
) -> tuple[str, bool, str]:
    if found.shape != expected.shape:
        return (name, False, f"shape {found.shape} instead of {expected.shape}")
    worst = float(np.abs(found - expected).max())
    return (name, worst <= tolerance, f"max difference {worst:.3g}, allowed {tolerance:.3g}")


def _report_selftest(folder: Path) -> int:
    checks = selftest(folder)
    for name, passed, text in checks:
        sys.stdout.write(f"{'PASS' if passed else 'FAIL'}  {name}: {text}\n")
    passed = all(check[1] for check in checks)
    sys.stdout.write("PASS\n" if passed else "FAIL\n")
    return 0 if passed else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run an nnfactory artifact.")
    parser.add_argument("folder", nargs="?", type=Path, help="artifact")
    parser.add_argument("image", nargs="?", type=Path, help="image to answer for")
    parser.add_argument("--selftest", action="store_true", help="check the golden vectors")
    parser.add_argument("--conf", type=float, default=CONFIDENCE, help="least score")
    parser.add_argument("--threads", type=int, default=0, help="threads of ONNX Runtime")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw into this file")
    options = parser.parse_args(argv)
    folder = options.folder or Path(__file__).resolve().parent.parent
    if options.image is None and not options.selftest:
        parser.error("FOLDER and IMAGE are needed, or --selftest.")
    try:
        if options.selftest:
            return _report_selftest(folder)
        results = Runtime(folder, threads=options.threads)(options.image, conf=options.conf)
        if options.plot:
            from PIL import Image

            Image.fromarray(results.plot()).save(options.plot)
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises classes of its own
        sys.stderr.write(f"error: {error}\n")
        sys.stdout.write("FAIL\n" if options.selftest else "")
        return 1
    sys.stdout.write(results.tojson() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
