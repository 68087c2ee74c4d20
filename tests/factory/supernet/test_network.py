"""The elastic network in torch, and its twin in ONNX."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory.errors import DataError
from nnfactory.factory.graph.evaluate import run_network

torch = pytest.importorskip("torch")

from nnfactory.factory.supernet.network import boxes_from_distances  # noqa: E402
from nnfactory.factory.supernet.onnx_graph import INPUT, network_from_weights  # noqa: E402

KINDS = pytest.mark.parametrize("kind", ["cls", "det"])


def images(side: int, n: int = 4) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def outputs(network, *arguments) -> list[torch.Tensor]:
    found = network(*arguments)
    return [found] if isinstance(found, torch.Tensor) else list(found)


@KINDS
@torch.no_grad()
def test_a_narrow_call_with_full_widths_equals_the_full_network_in_training(toy_parts, kind):
    network = toy_parts.supernet(kind).train()
    before = toy_parts.weights(network)
    x = images(toy_parts.side)
    narrow = outputs(network, x, network.full)
    for name, array in toy_parts.weights(network).items():  # statistics belong to the full one
        np.testing.assert_array_equal(array, before[name])
    for own, other in zip(outputs(network, x), narrow, strict=True):
        np.testing.assert_allclose(own.numpy(), other.numpy(), atol=1e-5)
    assert not np.array_equal(
        toy_parts.weights(network)["stem.norm.running_mean"], before["stem.norm.running_mean"]
    )


@KINDS
@torch.no_grad()
def test_the_onnx_network_equals_the_torch_network(toy_parts, kind):
    network = toy_parts.supernet(kind)
    graph, _ = network_from_weights(network.architecture, toy_parts.weights(network))
    x = images(toy_parts.side, 1)
    found = run_network(graph, {INPUT: x.numpy()})
    expected = outputs(network, x)
    if kind == "cls":
        np.testing.assert_allclose(found["logits"], expected[0].numpy(), atol=1e-4)
        return
    for prefix, values in zip(("classes", "boxes"), expected, strict=True):
        flat = [found[f"{prefix}{s}"].reshape(1, values.shape[2], -1) for s in (2, 4)]
        joined = np.concatenate(flat, 2).transpose(0, 2, 1)
        np.testing.assert_allclose(joined, values.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "stem", [{"stem_kernel": 2, "stem_stride": 2}, {"stem_kernel": 5}, {"stem_stride": 2}]
)
@torch.no_grad()
def test_stems_of_other_kernels_and_strides_agree_too(toy_parts, stem):
    network = toy_parts.supernet("cls", **stem)
    stride = network.architecture.stem_stride
    x = images(toy_parts.side, 1)
    assert network.stem(x).shape[2] == toy_parts.side // stride
    graph, _ = network_from_weights(network.architecture, toy_parts.weights(network))
    found = run_network(graph, {INPUT: x.numpy()})["logits"]
    np.testing.assert_allclose(found, network(x).numpy(), atol=1e-4)


@torch.no_grad()
def test_a_stem_of_patches_sees_every_pixel_once(toy_parts):
    network = toy_parts.supernet("cls", stem_kernel=4, stem_stride=4)
    x = images(toy_parts.side, 1)
    changed = x.clone()
    changed[..., 4:8, 8:12] = 0.5
    gap = (network.stem(x) - network.stem(changed)).abs().amax((0, 1))
    assert gap[1, 2] > 0
    gap[1, 2] = 0
    assert (gap == 0).all()


@KINDS
@torch.no_grad()
def test_a_library_at_a_smaller_size_equals_the_torch_network_there(
    toy_parts, toy_cls, toy_det, kind
):
    network = toy_parts.supernet(kind)
    library = {"cls": toy_cls, "det": toy_det}[kind].at(16)
    x = images(16, 1)
    found = run_network(library.network, {INPUT: x.numpy()})
    expected = outputs(network, x)
    if kind == "cls":
        np.testing.assert_allclose(found["logits"], expected[0].numpy(), atol=1e-4)
        return
    assert expected[0].shape == (1, 8 * 8 + 4 * 4, 4)
    for prefix, values in zip(("classes", "boxes"), expected, strict=True):
        flat = [found[f"{prefix}{s}"].reshape(1, values.shape[2], -1) for s in (2, 4)]
        joined = np.concatenate(flat, 2).transpose(0, 2, 1)
        np.testing.assert_allclose(joined, values.numpy(), atol=1e-4)


@KINDS
def test_the_slots_of_graph_and_torch_network_agree(toy_parts, kind):
    network = toy_parts.supernet(kind)
    _, slots = network_from_weights(network.architecture, toy_parts.weights(network))
    blocks = [slot for slot in slots if slot.kind == "block"]
    assert [slot.name for slot in blocks] == [name for name, _ in network.slots]
    assert tuple(slot.groups for slot in blocks) == network.full
    assert tuple(slot.min_groups for slot in blocks) == network.empty
    assert slots[-1].groups == network.architecture.classes


@given(data=st.data())
@torch.no_grad()
def test_zeroed_groups_equal_absent_groups_at_any_width(toy_parts, data):
    network = toy_parts.supernet("cls")
    widths = [
        data.draw(st.integers(least, most))
        for least, most in zip(network.empty, network.full, strict=True)
    ]
    x = images(toy_parts.side)
    gates = [
        torch.cat((torch.ones(len(x), width), torch.zeros(len(x), most - width)), 1)
        for width, most in zip(widths, network.full, strict=True)
    ]
    if 0 in widths:  # what is left of a block with all groups zeroed is its last shift
        widths = [max(1, width) for width in widths]
        for gate in gates:
            gate[:, 0] = 1
    narrow = network(x, widths)
    gated = network(x, network.full, gates)
    np.testing.assert_allclose(narrow.numpy(), gated.numpy(), atol=1e-4)


@pytest.mark.parametrize("skipped", range(4))
@torch.no_grad()
def test_a_skipped_block_passes_its_input_on(toy_parts, skipped):
    network = toy_parts.supernet("cls")
    x = images(toy_parts.side)
    widths = list(network.full)
    assert network.empty[skipped] == 0
    widths[skipped] = 0
    with_skip = network(x, widths)
    block = network.slots[skipped][1]
    torch.nn.init.zeros_(block.project.norm.weight)
    torch.nn.init.zeros_(block.project.norm.bias)
    np.testing.assert_allclose(with_skip.numpy(), network(x, network.full).numpy(), atol=1e-5)


def test_boxes_reach_as_far_from_their_centre_as_predicted():
    raw = torch.log(torch.expm1(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])))  # inverse of softplus
    box = boxes_from_distances(raw, torch.tensor([[10.0, 20.0]]), torch.tensor([2.0]))
    np.testing.assert_allclose(box.numpy(), [[[8, 16, 16, 28]]], rtol=1e-5)


@torch.no_grad()
def test_a_network_of_skipped_blocks_alone_still_narrows_the_picture(toy_parts):
    for kind in ("cls", "det"):
        network = toy_parts.supernet(kind)
        assert network.empty == (0,) * len(network.full)
        x = images(toy_parts.side)
        maps = network.features(x, network.empty, False, None)
        assert [m.shape[1:] for m in maps] == [(8, 16, 16), (16, 8, 8)]
        for own, other in zip(outputs(network, x, network.empty), outputs(network, x), strict=True):
            assert own.shape == other.shape


def test_a_detector_has_two_blocks_per_stride_in_front_of_classes_and_boxes(toy_parts):
    names = [name for name, _ in toy_parts.supernet("det").slots]
    assert names[4:] == ["head2.classes", "head2.boxes", "head4.classes", "head4.boxes"]
    assert [name for name, _ in toy_parts.supernet("cls").slots] == names[:4]


@torch.no_grad()
def test_the_blocks_of_a_head_change_its_own_answer_alone(toy_parts):
    network = toy_parts.supernet("det")
    x = images(toy_parts.side)
    before = network(x, network.full)
    for position, (answer, level) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):
        widths = list(network.full)
        widths[4 + position] = 0
        after = network(x, widths)
        positions = slice(0, 256) if level == 0 else slice(256, None)
        for number in (0, 1):
            gap = (after[number] - before[number]).abs()
            assert (gap[:, positions].max() > 1e-4) == (number == answer)
            gap[:, positions] = 0
            assert gap.max() < 1e-6


def test_anchors_of_a_smaller_input_are_fewer_and_as_far_apart(toy_parts):
    network = toy_parts.supernet("det")
    centers, strides = network.anchors(16)
    assert centers.shape == (8 * 8 + 4 * 4, 2)
    assert centers[1].tolist() == [3.0, 1.0]
    assert centers[-1].tolist() == [14.0, 14.0]
    assert strides.unique().tolist() == [2.0, 4.0]
    for mine, other in zip(network.anchors(), network.anchors(32), strict=True):
        assert torch.equal(mine, other)


@KINDS
def test_anchors_lie_in_the_middle_of_their_cells_in_output_order(toy_parts, kind):
    network = toy_parts.supernet("det")
    centers, strides = network.anchors()
    assert centers.shape == (16 * 16 + 8 * 8, 2)
    assert centers[1].tolist() == [3.0, 1.0]
    assert strides[0] == 2
    assert strides[-1] == 4
    assert centers[-1].tolist() == [30.0, 30.0]


@pytest.mark.parametrize("broken", [{"kind": "seg"}, {"input_size": 33}, {"head_strides": (3,)}])
def test_an_architecture_that_cannot_be_built_is_refused(toy_parts, broken):
    with pytest.raises(DataError):
        dataclasses.replace(toy_parts.architecture("det"), **broken)
