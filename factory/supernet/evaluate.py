"""Validation metric of a supernet while it trains; published figures come from ONNX networks."""

from __future__ import annotations

import numpy as np
import torch

from ..datasets import Images
from ..metrics import match_detections
from .augment import tensor_from_pixels
from .network import Classifier, Detector, Widths, boxes_from_distances

BATCH = 64
KEPT = 100  # detections per image


@torch.no_grad()
def evaluate_network(
    network: Classifier | Detector, images: Images, widths: Widths | None, compute: str
) -> float:
    """Top-1 accuracy or AP50 of the full network (``None``) or of a narrower one, in [0, 1].

    A narrower network normalizes with the statistics of the batches it is evaluated on, so the
    images are shuffled: neighbors are often alike.
    """
    network.eval()
    images = images.subset(np.random.default_rng(0).permutation(len(images)))
    correct, detections = 0, []
    for start in range(0, len(images), BATCH):
        inputs = tensor_from_pixels(images.pixels[start : start + BATCH]).to(compute)
        with torch.autocast(compute, torch.bfloat16):
            outputs = network(inputs, widths)
        if isinstance(network, Classifier):
            labels = images.labels[start : start + BATCH]
            correct += int((outputs.argmax(1).cpu().numpy() == labels).sum())
        else:
            detections += _detections(network, outputs)
    if isinstance(network, Classifier):
        return correct / len(images)
    return match_detections(detections, images.boxes, network.architecture.classes).ap50()


def _detections(network: Detector, outputs: tuple[torch.Tensor, torch.Tensor]) -> list[np.ndarray]:
    """Per image (100, 6), rows x1, y1, x2, y2, score, class."""
    logits, raw = outputs[0].float().cpu(), outputs[1].float().cpu()
    boxes = boxes_from_distances(raw, *network.anchors())
    score, label = logits.sigmoid().max(2)
    best, index = score.topk(min(KEPT, score.shape[1]), dim=1)
    rows = torch.cat(
        (
            boxes.gather(1, index[..., None].expand(-1, -1, 4)),
            best[..., None],
            label.gather(1, index)[..., None].float(),
        ),
        2,
    )
    return list(rows.numpy())
