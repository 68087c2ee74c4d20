"""Assignment, overlaps and losses of the detector."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from nnfactory.factory.supernet.detection_loss import (  # noqa: E402
    assign,
    detection_distillation,
    detection_loss,
    distribution_loss,
    giou,
    pairwise_iou,
)
from nnfactory.factory.supernet.network import BINS, distances_from_bins  # noqa: E402

SIDE, STRIDE = 64, 8
SEEDS = st.integers(0, 10**6)


def grid() -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (64, 2) and strides (64,) of an 8 x 8 feature map."""
    axis = (torch.arange(SIDE // STRIDE) + 0.5) * STRIDE
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    centers = torch.stack((x.flatten(), y.flatten()), 1)
    return centers, torch.full((len(centers),), float(STRIDE))


def predictions(seed: int, classes: int = 3, batch: int = 1):
    """Scores (B, 64, K) in (0, 1), and boxes around every centre (B, 64, 4)."""
    generator = torch.Generator().manual_seed(seed)
    centers, _ = grid()
    scores = torch.rand(batch, len(centers), classes, generator=generator)
    reach = torch.rand(batch, len(centers), 4, generator=generator) * 14 + 2
    boxes = torch.cat((centers - reach[..., :2], centers + reach[..., 2:]), -1)
    return scores, boxes


def separate_targets(seed: int, padding: int = 2) -> torch.Tensor:
    """One box in each quarter of the picture, too far apart to share a position."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for x, y in ((0, 0), (32, 0), (0, 32), (32, 32)):
        low = torch.rand(2, generator=generator) * 6 + torch.tensor([x + 6.0, y + 6.0])
        size = torch.rand(2, generator=generator) * 9 + 3
        label = torch.randint(0, 3, (1,), generator=generator).float()
        rows.append(torch.cat((label, low, low + size)))
    return torch.cat((torch.stack(rows), torch.full((padding, 5), -1.0)))[None]


def brute_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Overlap of two boxes on whole pixels, counted pixel by pixel."""

    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = (int(v) for v in box)
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    first, second = pixels(a), pixels(b)
    return len(first & second) / max(1, len(first | second))


@st.composite
def whole_boxes(draw: st.DrawFn, n: int = 3) -> np.ndarray:
    corners = [
        (x, y, x + draw(st.integers(1, 9)), y + draw(st.integers(1, 9)))
        for x, y in (draw(st.tuples(st.integers(0, 9), st.integers(0, 9))) for _ in range(n))
    ]
    return np.array(corners, np.float32)


@given(boxes=whole_boxes(), others=whole_boxes())
def test_overlaps_equal_those_counted_pixel_by_pixel(boxes, others):
    found = pairwise_iou(torch.from_numpy(boxes)[None], torch.from_numpy(others)[None])[0]
    expected = [[brute_iou(a, b) for b in others] for a in boxes]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@given(boxes=whole_boxes(), others=whole_boxes())
def test_the_generalized_overlap_subtracts_the_empty_part_of_the_hull(boxes, others):
    found = giou(torch.from_numpy(boxes), torch.from_numpy(others)).numpy()
    for value, a, b in zip(found, boxes, others, strict=True):
        hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
        iou = brute_iou(a, b)
        areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
        union = areas / (1 + iou)
        assert value == pytest.approx(iou - (hull - union) / hull, abs=1e-5)
        assert -1 <= value <= 1
    same = giou(torch.from_numpy(boxes), torch.from_numpy(boxes))
    np.testing.assert_allclose(same.numpy(), 1, atol=1e-6)


@given(seed=SEEDS)
def test_one_to_one_gives_exactly_one_position_to_every_separate_box(seed):
    centers, strides = grid()
    targets = separate_targets(seed)
    owner, quality = assign(*predictions(seed), centers, strides, targets, top=1)
    assert owner.shape == quality.shape == (1, 64)
    assert sorted(owner[owner >= 0].tolist()) == [0, 1, 2, 3]
    assert (quality[owner >= 0] > 0).all()
    assert (quality[owner < 0] == 0).all()
    assert (quality <= 1).all()


@given(seed=SEEDS)
def test_an_assigned_position_lies_in_its_box_or_beside_its_middle(seed):
    centers, strides = grid()
    targets = separate_targets(seed)
    owner, _ = assign(*predictions(seed), centers, strides, targets, top=8)
    for position in torch.nonzero(owner[0] >= 0)[:, 0]:
        _, x1, y1, x2, y2 = targets[0, owner[0, position]]
        x, y = centers[position]
        inside = x1 < x < x2 and y1 < y < y2
        near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) <= STRIDE
        assert inside or near


@given(seed=SEEDS)
def test_one_to_many_gives_more_positions_and_includes_the_best(seed):
    centers, strides = grid()
    targets = separate_targets(seed)
    scores, boxes = predictions(seed)
    one, _ = assign(scores, boxes, centers, strides, targets, top=1)
    many, _ = assign(scores, boxes, centers, strides, targets, top=8)
    assert ((one < 0) | (many == one)).all()
    counts = torch.bincount(many[many >= 0], minlength=4)
    assert (counts >= 1).all()
    assert (counts <= 8).all()


def test_a_box_smaller_than_a_cell_still_finds_a_position():
    centers, strides = grid()
    targets = torch.tensor([[[0.0, 15.5, 15.5, 16.5, 16.5]]])  # between four centres
    owner, _ = assign(*predictions(0), centers, strides, targets, top=1)
    assert (owner >= 0).sum() == 1


@pytest.mark.parametrize("top", [1, 8])
def test_the_loss_is_finite_without_any_box(top):
    centers, strides = grid()
    scores, boxes = predictions(3, batch=2)
    logits = torch.logit(scores.clamp(0.01, 0.99)).requires_grad_()
    targets = torch.full((2, 4, 5), -1.0)
    loss = detection_loss(logits, boxes, targets, centers, strides, top=top)
    assert loss.shape == (2,)
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad >= 0).all()  # every score should fall


@given(seed=SEEDS)
def test_right_answers_cost_less_than_wrong_ones(seed):
    centers, strides = grid()
    targets = separate_targets(seed)
    scores, boxes = predictions(seed)
    owner, _ = assign(scores, boxes, centers, strides, targets, top=1)
    logits = torch.full_like(scores, -8.0)
    right_boxes = boxes.clone()
    for position in torch.nonzero(owner[0] >= 0)[:, 0]:
        row = targets[0, owner[0, position]]
        logits[0, position, int(row[0])] = 8.0
        right_boxes[0, position] = row[1:]
    right = detection_loss(logits, right_boxes, targets, centers, strides, top=1)
    wrong = detection_loss(torch.logit(scores), boxes, targets, centers, strides, top=1)
    assert right.item() < 0.05
    assert wrong.item() > right.item()


def test_distillation_is_zero_for_the_teacher_itself_and_positive_otherwise():
    scores, boxes = predictions(5, batch=2)
    logits = torch.logit(scores)
    same = detection_distillation(logits, boxes, logits, boxes)
    assert same.item() == pytest.approx(0, abs=1e-5)
    assert detection_distillation(logits - 1, boxes + 1, logits, boxes).item() > 0.01


def test_a_distribution_is_pulled_to_the_bins_beside_the_distance():
    distances = torch.tensor([[0.25, 3.5, 16.0, 1.0], [-2.0, 99.0, 5.0, 0.0]])
    raw = torch.zeros(2, 4 * len(BINS), requires_grad=True)
    (distribution_loss(raw, distances)).sum().backward()
    pulled = -raw.grad.unflatten(1, (4, len(BINS))) + 0  # towards higher logits
    for image, side, beside in (
        (0, 0, {0.0, 0.5}), (0, 1, {3.0, 4.0}), (0, 2, {16.0}), (0, 3, {1.0}), (1, 0, {0.0}),
        (1, 1, {16.0}), (1, 2, {4.0, 6.0}),
    ):  # fmt: skip
        assert {b for b, up in zip(BINS, pulled[image, side], strict=True) if up > 0} == beside


def test_the_best_distribution_expects_the_distance():
    goal = torch.tensor([[0.25, 3.5, 11.0, 1.7]])
    raw = torch.zeros(1, 4 * len(BINS), requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        distribution_loss(raw, goal).sum().backward()
        optimizer.step()
    assert distances_from_bins(raw[None])[0].detach() == pytest.approx(goal, abs=0.02)
    worse = distribution_loss(torch.zeros_like(raw), goal)
    assert distribution_loss(raw, goal) < worse
