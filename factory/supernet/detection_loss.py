"""Task-aligned assignment and the losses of the detector."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .network import BINS

MANY = 8  # positions per box of the one-to-many heads
SHARPNESS = 0.2  # weight of the distribution focal loss, as a share of that of the boxes


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (B, M, A) of boxes (B, M, 4) and others (B, A, 4), xyxy."""
    low = torch.maximum(boxes[:, :, None, :2], others[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], others[:, None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
    other_area = (others[..., 2:] - others[..., :2]).clamp(min=0).prod(-1)
    return overlap / (area[:, :, None] + other_area[:, None] - overlap).clamp(min=1e-6)


def giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalized intersection over union (N,) of row pairs, xyxy (N, 4)."""
    overlap = (
        (torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2]))
        .clamp(min=0)
        .prod(1)
    )
    area = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    other_area = (others[:, 2:] - others[:, :2]).clamp(min=0).prod(1)
    union = (area + other_area - overlap).clamp(min=1e-6)
    hull = (
        (torch.maximum(boxes[:, 2:], others[:, 2:]) - torch.minimum(boxes[:, :2], others[:, :2]))
        .prod(1)
        .clamp(min=1e-6)
    )
    return overlap / union - (hull - union) / hull


@torch.no_grad()
def assign(
    scores: Tensor, boxes: Tensor, centers: Tensor, strides: Tensor, targets: Tensor, top: int
) -> tuple[Tensor, Tensor]:
    """Choose the ``top`` best-aligned positions of every box.

    The alignment is score**0.5 * IoU**4 over positions whose centre lies in the box, or within
    one stride of its middle so that no box is too small to be found.

    Args:
        scores: Class probabilities (B, A, K).
        boxes: Predicted boxes xyxy (B, A, 4) in pixels.
        centers: Position centres (A, 2) in pixels.
        strides: Stride of every position (A,).
        targets: Boxes (B, M, 5), rows class, x1, y1, x2, y2; class -1 pads.
        top: Positions per box; 1 trains one-to-one.

    Returns:
        Index of the assigned box (B, A), -1 for background, and the soft target score (B, A).

    Source:
        Feng et al., "TOOD", arXiv:2108.07755, section 3.2; the exponents are ours, and ``top=1``
        follows the consistent dual assignment of YOLOv10, arXiv:2405.14458, section 3.1.
    """
    real = targets[..., 0] >= 0  # (B, M)
    goal = targets[..., 1:]
    iou = pairwise_iou(goal, boxes)  # (B, M, A)
    label = targets[..., 0].clamp(min=0).long()
    score = scores.transpose(1, 2).gather(1, label[..., None].expand(-1, -1, scores.shape[1]))
    offset = torch.minimum(centers - goal[:, :, None, :2], goal[:, :, None, 2:] - centers).amin(
        -1
    )  # (B, M, A), positive inside
    middle = (goal[..., :2] + goal[..., 2:]) / 2
    near = (centers - middle[:, :, None]).abs().amax(-1) <= strides
    allowed = ((offset > 0) | near) & real[..., None]
    alignment = (score.clamp(min=1e-6) ** 0.5 * (iou + 1e-4) ** 4) * allowed
    best, index = alignment.topk(min(top, alignment.shape[2]), dim=2)
    chosen = torch.zeros_like(alignment).scatter_(2, index, (best > 0).to(alignment.dtype)) > 0
    owner = torch.where(chosen, iou, torch.full_like(iou, -1.0))
    overlap, box_index = owner.max(1)  # (B, A)
    taken = overlap >= 0
    alignment = torch.where(chosen, alignment, torch.zeros_like(alignment))
    peak = alignment.amax(2, keepdim=True).clamp(min=1e-9)
    best_iou = (iou * chosen).amax(2, keepdim=True)
    quality = (alignment / peak * best_iou.clamp(min=0.3)).gather(1, box_index[:, None])[:, 0]
    return torch.where(taken, box_index, torch.full_like(box_index, -1)), quality * taken


def detection_loss(
    logits: Tensor,
    boxes: Tensor,
    targets: Tensor,
    centers: Tensor,
    strides: Tensor,
    *,
    top: int,
    sides: Tensor | None = None,
) -> Tensor:
    """Loss per image (B,): cross entropy of the scores and GIoU of the assigned boxes.

    Args:
        logits: (B, A, K).
        boxes: Predicted boxes xyxy (B, A, 4) in pixels.
        targets: See :func:`assign`.
        centers: See :func:`assign`.
        strides: See :func:`assign`.
        top: Positions per box.
        sides: Logits (B, A, 4 x bins) of distributions that the boxes are the expectation of; they
            get the distribution focal loss, too.
    """
    owner, quality = assign(logits.sigmoid(), boxes, centers, strides, targets, top)
    image, position = torch.nonzero(owner >= 0, as_tuple=True)
    box = targets[image, owner[image, position]]
    weight = quality[image, position]
    goal = torch.zeros_like(logits)
    goal[image, position, box[:, 0].long()] = weight.to(goal.dtype)
    scale = quality.sum() / len(logits) + 0.1  # mean target mass per image
    classify = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    # Easy negatives fade out: there are a thousand of them for every object.
    focus = torch.where(goal > 0, torch.ones_like(goal), logits.detach().sigmoid() ** 1.5)
    per_image = (classify * focus).sum((1, 2))
    localize = weight * (1 - giou(boxes[image, position], box[:, 1:]))
    if sides is not None:
        away = torch.cat((centers[position] - box[:, 1:3], box[:, 3:] - centers[position]), 1)
        goals = away / strides[position, None]
        localize = localize + SHARPNESS * weight * distribution_loss(sides[image, position], goals)
    per_image = per_image + 2.5 * torch.zeros_like(per_image).index_add(0, image, localize)
    return per_image / scale


def distribution_loss(raw: Tensor, distances: Tensor) -> Tensor:
    """Cross entropy (N,) of the two bins next to every distance, mean over the four sides.

    Args:
        raw: Logits (N, 4 x bins).
        distances: In strides (N, 4); what lies outside of the bins counts as their end.

    Source:
        Distribution focal loss of Li et al., "Generalized Focal Loss", arXiv:2006.04388, equation
        6, with bins that widen: a box is as far off as it is large.
    """
    bins = torch.tensor(BINS, dtype=raw.dtype, device=raw.device)
    goal = distances.to(raw.dtype).clamp(BINS[0], BINS[-1])
    right = torch.searchsorted(bins, goal.contiguous(), right=True).clamp(1, len(BINS) - 1)
    part = (goal - bins[right - 1]) / (bins[right] - bins[right - 1])
    logs = torch.log_softmax(raw.reshape(*raw.shape[:-1], 4, len(BINS)), -1)
    nearest = [logs.gather(-1, (right + step)[..., None])[..., 0] for step in (-1, 0)]
    return -((1 - part) * nearest[0] + part * nearest[1]).mean(-1)


def detection_distillation(
    logits: Tensor, boxes: Tensor, teacher_logits: Tensor, teacher_boxes: Tensor
) -> Tensor:
    """Mean distance to the full network's scores, and to its boxes where it is confident."""
    soft = teacher_logits.sigmoid()
    confidence = soft.amax(2)  # (B, A)
    mass = confidence.sum().clamp(min=1.0)
    gap = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    floor = F.binary_cross_entropy(soft, soft, reduction="none")
    weight = (soft + logits.detach().sigmoid()).clamp(max=1.0)
    classify = ((gap - floor) * weight).sum() / mass
    image, position = torch.nonzero(confidence > 0.2, as_tuple=True)
    overlap = giou(boxes[image, position], teacher_boxes[image, position])
    localize = (confidence[image, position] * (1 - overlap)).sum() / mass
    return classify + 2.5 * localize
