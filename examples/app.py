"""An app with an artifact in it: python app.py ARTIFACT IMAGE. Needs numpy and onnxruntime.

A camera gives arrays, as an .npy file does; only reading a PNG or JPEG file needs pillow too.
"""

# ruff: noqa: T201, B905 - an app prints what it found, on Python 3.8 too
import sys
from pathlib import Path

import numpy as np

if len(sys.argv) != 3:
    sys.exit("usage: app.py ARTIFACT IMAGE")
artifact, image = Path(sys.argv[1]), sys.argv[2]
if image.endswith(".npy"):
    image = np.load(image)  # uint8 RGB (height, width, 3)
sys.path.insert(0, str(artifact / "python"))

from nnf_runtime import Runtime  # noqa: E402 - it comes with the artifact

network = Runtime(artifact, threads=1)  # once, when the app starts
results = network(image)  # per image

if results.probs is not None:
    print(f"{results.names[results.probs.top1]}: {results.probs.top1conf:.0%}")
else:
    for box, score, label in zip(results.boxes.xyxy, results.boxes.conf, results.boxes.cls):
        corners = ", ".join(f"{value:.0f}" for value in box)
        print(f"{results.names[int(label)]}: {score:.0%} at {corners}")
print(f"{results.speed['inference']:.1f} ms for the network")
