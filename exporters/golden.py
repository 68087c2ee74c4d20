"""Golden inputs and outputs: what an artifact must answer, wherever it runs.

The image is drawn by this file: gradients, shapes and noise from a seed. No data set is in it.
"""

from __future__ import annotations

import json
import struct
import zlib
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .runtime.nnf_runtime import CONFIDENCE, Runtime, preprocess

Pixels = NDArray[np.uint8]
HEIGHT, WIDTH = 240, 320  # no network's input: resizing and padding are tested as well
SEED = 0
TOLERANCE = {"input": 1.01 / 255, "score": 1e-3, "box_px": 0.1}


@cache
def golden_image(seed: int = SEED) -> Pixels:
    """A picture (240, 320, 3), uint8 RGB, read-only, the same for the same seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    image = np.stack((x / WIDTH, y / HEIGHT, 1 - (x + y) / (WIDTH + HEIGHT)), -1) * 200  # (H, W, 3)
    for _ in range(6):
        center, radius = rng.uniform((0, 0), (HEIGHT, WIDTH)), rng.uniform(15, 60)
        offset = np.stack((y - center[0], x - center[1])) / radius  # (2, H, W)
        is_disc = rng.random() < 0.5
        inside = (offset**2).sum(0) < 1 if is_disc else np.abs(offset).max(0) < 1
        image[inside] = rng.uniform(0, 255, 3)
    stripes = (x // 8 + y // 8) % 2 == 0
    image[160:220, 20:100][stripes[160:220, 20:100]] = 255
    image += rng.normal(0, 6, image.shape)
    pixels = np.asarray(np.rint(image).clip(0, 255), np.uint8)
    pixels.flags.writeable = False
    return pixels


@cache
def golden_png(seed: int = SEED) -> bytes:
    """The same picture as a PNG file."""
    return png_from_pixels(golden_image(seed))


def png_from_pixels(pixels: Pixels) -> bytes:
    """A PNG file of an image (H, W, 3), uint8 RGB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    lines = b"".join(b"\0" + pixels[row].tobytes() for row in range(height))
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@lru_cache(maxsize=8)
def _golden_tensor(spec: str, seed: int) -> NDArray[np.float32]:
    """The picture as the input (1, 3, H, W) of a network whose preprocessing is this JSON."""
    tensor = preprocess(golden_image(seed), json.loads(spec))
    tensor.flags.writeable = False
    return tensor


def write_golden(folder: Path, network: Path, *, seed: int = SEED) -> None:
    """Write ``input.png``, ``input.npy``, ``output.npy`` and ``answer.json`` for a network.

    The output is that of ONNX Runtime's CPU provider with one thread.

    Args:
        folder: Where they go; it is made.
        network: The ``model.onnx`` with its metadata.
        seed: Seed of the picture.
    """
    image = golden_image(seed)
    runtime = Runtime(network, threads=1)
    tensor = _golden_tensor(json.dumps(runtime.preprocess_spec), seed)
    output = runtime.infer(tensor)
    confidence = CONFIDENCE
    if runtime.task == "detect":
        # Half the best score at most, so that there is an answer to compare.
        confidence = min(CONFIDENCE, 0.5 * float(output[0, :, 4].max()))
    recorded = {
        "about": "golden/input.png was drawn by nnfactory; 'python3 python/nnf_runtime.py "
        "--selftest' compares. Tolerances hold for float32 on any CPU.",
        "seed": seed,
        "image_shape": list(image.shape),
        "confidence": confidence,
        "tolerance": TOLERANCE,
        "answer": runtime.decode(output, image, confidence).summary(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "input.png").write_bytes(golden_png(seed))
    np.save(folder / "input.npy", tensor, allow_pickle=False)
    np.save(folder / "output.npy", output, allow_pickle=False)
    text = json.dumps(recorded, indent=2, ensure_ascii=False)
    (folder / "answer.json").write_text(text + "\n", encoding="utf-8")
