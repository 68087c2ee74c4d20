"""Linking: the cut network equals the masked one, and the answer is what it should be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfactory.factory import linker
from nnfactory.factory.assembler.assemble import plan_from_counts
from nnfactory.factory.assembler.footprint import empty_counts, footprint, full_counts
from nnfactory.factory.errors import DataError, NNFactoryError, VerificationError
from nnfactory.factory.graph.costs import op_costs, parameter_count
from nnfactory.factory.graph.evaluate import run_network
from nnfactory.factory.graph.memory import peak_bytes
from nnfactory.factory.graph.network import Network, model_from_network, tensor_shapes
from nnfactory.factory.graph.normalization import norm_nodes
from nnfactory.factory.library.library import CLASSES, NORMALIZATIONS, ModuleLibrary
from nnfactory.factory.linker import link, proof_inputs, prove
from nnfactory.factory.schema import OwnedRange, Plan, Slot, Task

ANY = st.sampled_from(["cls", "det"])


@pytest.fixture(scope="session")
def libraries(toy_cls, toy_det) -> dict[str, ModuleLibrary]:
    return {"cls": toy_cls, "det": toy_det}


@st.composite
def plans(draw: st.DrawFn, library: ModuleLibrary, modes=("sliced", "stored")) -> Plan:
    """Any plan: groups that are no prefix, skipped blocks, some of the classes."""
    active = {}
    for slot in library.blocks:
        groups = draw(st.sets(st.integers(0, slot.groups - 1), min_size=slot.min_groups))
        active[slot.name] = tuple(sorted(groups))
    least = 2 if library.kind == "cls" else 1
    chosen = draw(st.sets(st.sampled_from(library.classes), min_size=least))
    return Plan(
        task=library.task(tuple(sorted(chosen))),
        library=library.name,
        library_id=library.id,
        active=active,
        input_size=draw(st.sampled_from(library.input_sizes)),
        normalization=draw(st.sampled_from(modes)),
    )


def noise(library: ModuleLibrary, n: int, seed: int = 3) -> np.ndarray:
    size = library.input_size
    return np.random.default_rng(seed).random((n, 3, size, size), dtype=np.float32)


def outputs(network: Network, image: np.ndarray) -> dict[str, np.ndarray]:
    (name,) = network.inputs
    return run_network(network, {name: image})


def full_plan(library: ModuleLibrary, **changes: object) -> Plan:
    plan = plan_from_counts(library, library.task(), full_counts(library))
    return dataclasses.replace(plan, **changes)


@given(data=st.data(), kind=ANY)
def test_the_cut_network_equals_the_library_with_the_rest_zeroed(libraries, data, kind):
    library = libraries[kind]
    plan = data.draw(plans(library))
    parities = prove(library, plan, link(library, plan))
    assert all(parity.passed for parity in parities)
    assert [parity.b for parity in parities] == ["linked, with normalization folded"]
    assert all(parity.n == 2 and parity.tolerance == 1e-4 for parity in parities)


@given(data=st.data(), kind=ANY)
@settings(max_examples=6)
def test_reestimated_networks_are_proven_too(libraries, data, kind):
    library = libraries[kind]
    plan = data.draw(plans(library, modes=("reestimated",)))
    linked = link(library, plan, images=noise(library.at(plan.input_size), 8))
    assert all(parity.passed for parity in prove(library, plan, linked))


@given(data=st.data(), kind=ANY)
def test_linked_networks_are_valid_onnx_of_opset_17_and_ir_8(libraries, data, kind):
    library = libraries[kind]
    plan = data.draw(plans(library))
    linked = link(library, plan)
    model = model_from_network(linked.network)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    assert linked.network.name == f"nnfactory-{plan.id}"
    assert norm_nodes(linked.cut)
    assert not norm_nodes(linked.network)


@given(data=st.data(), kind=ANY)
def test_the_linked_network_costs_exactly_what_was_predicted(libraries, data, kind):
    library = libraries[kind]
    plan = data.draw(plans(library))
    network = link(library, plan).network
    shapes = tensor_shapes(network)
    counts = {**plan.counts, CLASSES: len(plan.task.classes)}
    size = footprint(library.at(plan.input_size))
    assert size.total_params(counts) == parameter_count(network)
    assert size.total_macs(counts) == sum(row.macs for row in op_costs(network, shapes))
    left_out = len(library.classes) - len(plan.task.classes)  # their tensors count all the same
    positions = sum((plan.input_size // stride) ** 2 for stride in library.head_strides)
    excess = size.peak_bytes(counts) - peak_bytes(network, shapes)
    assert 0 <= excess <= 4 * left_out * positions


@given(data=st.data(), kind=ANY)
def test_the_peak_of_any_plan_for_all_classes_is_predicted_exactly(libraries, data, kind):
    library = libraries[kind]
    plan = dataclasses.replace(data.draw(plans(library)), task=library.task())
    network = link(library, plan).network
    counts = {**plan.counts, CLASSES: len(plan.task.classes)}
    size = footprint(library.at(plan.input_size))
    assert size.peak_bytes(counts) == peak_bytes(network, tensor_shapes(network))


@pytest.mark.parametrize("skipped", list(itertools.product([0, 1], repeat=4)))
def test_the_peak_is_exact_whichever_blocks_are_skipped(toy_cls, skipped):
    counts = dict(zip((slot.name for slot in toy_cls.blocks), skipped, strict=True))
    network = link(toy_cls, plan_from_counts(toy_cls, toy_cls.task(), counts)).network
    whole = {**counts, CLASSES: len(toy_cls.classes)}
    assert footprint(toy_cls).peak_bytes(whole) == peak_bytes(network, tensor_shapes(network))


@given(data=st.data())
def test_probabilities_sum_to_one_over_the_classes_of_the_task(toy_cls, data):
    plan = data.draw(plans(toy_cls))
    network = link(toy_cls, plan).network
    scores = outputs(network, noise(toy_cls.at(plan.input_size), 1))["output0"]
    assert scores.shape == (1, len(plan.task.classes))
    assert scores.sum() == pytest.approx(1, abs=1e-5)
    assert (scores >= 0).all()


@given(data=st.data())
def test_a_detection_answer_equals_an_independent_decoding_of_the_raw_outputs(toy_det, data):
    plan = data.draw(plans(toy_det))
    linked = link(toy_det, plan)
    view = toy_det.at(plan.input_size)
    image = noise(view, 1)
    answer = outputs(linked.network, image)["output0"]
    assert answer.shape == (1, 100, 6)
    expected = decoded(view, outputs(linked.folded, image))
    np.testing.assert_allclose(answer[0, : len(expected)], expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(answer[0, len(expected) :], 0)


def decoded(library: ModuleLibrary, raw: dict[str, np.ndarray]) -> np.ndarray:
    """The 100 best local peaks, rows of x1, y1, x2, y2, score, class, from raw outputs."""
    rows = []
    for stride in library.head_strides:
        logits = raw[f"classes{stride}"][0].astype(np.float64)
        sides = np.logaddexp(0, raw[f"boxes{stride}"][0].astype(np.float64)) * stride
        best = logits.max(0)
        for (y, x), label in np.ndenumerate(logits.argmax(0)):
            around = best[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            if best[y, x] < around.max():
                continue
            cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
            left, top, right, bottom = sides[:, y, x]
            box = np.clip((cx - left, cy - top, cx + right, cy + bottom), 0, library.input_size)
            rows.append((*box, 1 / (1 + np.exp(-best[y, x])), label))
    return np.array(sorted(rows, key=lambda row: -row[4])[:100])


def test_a_full_plan_with_sliced_statistics_is_the_library_itself(toy_library):
    linked = link(toy_library, full_plan(toy_library, normalization="sliced"))
    image = noise(toy_library, 1)
    whole, cut = outputs(toy_library.network, image), outputs(linked.folded, image)
    for name, values in whole.items():
        np.testing.assert_allclose(cut[name], values, atol=1e-4)


def test_classes_keep_the_order_of_the_task(toy_cls):
    names = toy_cls.classes[4], toy_cls.classes[1]
    plan = full_plan(toy_cls, task=Task(kind="cls", classes=names), normalization="sliced")
    image = noise(toy_cls, 1)
    logits = outputs(link(toy_cls, plan).folded, image)["logits"]
    whole = outputs(toy_cls.network, image)["logits"]
    np.testing.assert_allclose(logits[0], whole[0, [4, 1]], atol=1e-4)


def test_skipping_every_block_that_can_be_skipped_leaves_a_working_network(toy_library):
    plan = plan_from_counts(toy_library, toy_library.task(), empty_counts(toy_library))
    linked = link(toy_library, plan)
    assert len(linked.cut.nodes) < len(toy_library.network.nodes)
    assert all(parity.passed for parity in prove(toy_library, plan, linked))


@pytest.mark.parametrize("mode", NORMALIZATIONS)
def test_linking_twice_gives_the_same_bytes(toy_library, mode):
    plan = full_plan(toy_library, normalization=mode)
    images = noise(toy_library, 4) if mode == "reestimated" else None
    first, second = (
        model_from_network(link(toy_library, plan, images=images).network).SerializeToString()
        for _ in range(2)
    )
    assert first == second


def test_a_plan_of_another_library_is_refused(toy_cls, toy_det):
    with pytest.raises(DataError, match=f"made for library 'toy-det' {toy_det.id}"):
        link(toy_cls, full_plan(toy_det))


def test_a_plan_that_names_other_slots_is_refused(toy_cls):
    plan = full_plan(toy_cls)
    for active in (
        {**plan.active, "stage9.block9": (0,)},
        {name: groups for name, groups in plan.active.items() if name != "stage0.block0"},
    ):
        with pytest.raises(DataError, match="does not fit library 'toy-cls'"):
            link(toy_cls, dataclasses.replace(plan, active=active))


def test_a_plan_with_modules_that_do_not_exist_is_refused(toy_cls):
    plan = full_plan(toy_cls)
    broken = dataclasses.replace(plan, active={**plan.active, "stage0.block1": (0, 99)})
    with pytest.raises(DataError, match=r"stage0\.block1"):
        link(toy_cls, broken)


def test_a_plan_that_skips_a_block_which_cannot_be_skipped_is_refused(toy_cls):
    slot = dataclasses.replace(toy_cls.slots[2], min_groups=1)
    plan = full_plan(toy_cls)
    broken = dataclasses.replace(plan, active={**plan.active, slot.name: ()})
    with pytest.raises(DataError, match=f"'{slot.name}' has .* keeps at least 1"):
        link(with_slot(toy_cls, 2, slot), broken)


def test_an_unknown_normalization_is_refused(toy_cls):
    with pytest.raises(DataError, match="sliced, stored, reestimated"):
        link(toy_cls, full_plan(toy_cls, normalization="frozen"))


def test_reestimated_normalization_needs_images(toy_cls):
    with pytest.raises(DataError, match="needs images"):
        link(toy_cls, full_plan(toy_cls, normalization="reestimated"))


def test_stored_normalization_needs_statistics(toy_parts, toy_cls):
    bare = toy_parts.with_size_data(toy_cls, statistics=None)
    with pytest.raises(DataError, match="holds no statistics"):
        link(bare, full_plan(toy_cls))


def test_a_nan_in_any_input_fails_the_proof():
    fine = {"logits": np.zeros((1, 2), np.float32)}
    broken = {"logits": np.full((1, 2), np.nan, np.float32)}
    assert not linker._parity("a", "b", [fine, fine], [fine, broken]).passed
    assert linker._parity("a", "b", [fine, fine], [fine, fine]).passed


def test_proof_inputs_are_fixed_images(toy_library):
    inputs = proof_inputs(33)
    assert inputs.shape == (2, 1, 3, 33, 33)
    assert inputs.dtype == np.float32
    assert 0 <= inputs.min() <= inputs.max() <= 1
    np.testing.assert_array_equal(inputs, proof_inputs(33))


def corrupted(
    library: ModuleLibrary, change: Callable[[OwnedRange], OwnedRange | None], *, slot: int = 1
) -> ModuleLibrary:
    """The library with one slot's table changed range by range; None removes a range."""
    whole = library.slots[slot]
    modules = tuple(
        dataclasses.replace(
            module, owns=tuple(new for old in module.owns if (new := change(old)) is not None)
        )
        for module in whole.modules
    )
    return with_slot(library, slot, dataclasses.replace(whole, modules=modules))


def with_slot(library: ModuleLibrary, position: int, slot: Slot) -> ModuleLibrary:
    slots = list(library.slots)
    slots[position] = slot
    return dataclasses.replace(library, slots=tuple(slots))


def shifted(owned: OwnedRange) -> OwnedRange:
    """The range of another module, for the first convolution alone."""
    if "expand.conv" not in owned.tensor:
        return owned
    start = (owned.start + 8) % 32
    return dataclasses.replace(owned, start=start, stop=start + 8)


CORRUPTIONS: dict[str, Callable[[OwnedRange], OwnedRange | None]] = {
    "another module's range": shifted,
    "a range past the end": lambda o: dataclasses.replace(
        o, start=o.start + 999, stop=o.stop + 999
    ),
    "a negative range": lambda o: dataclasses.replace(o, start=o.start - 999, stop=o.stop - 999),
    "an unknown tensor": lambda o: dataclasses.replace(o, tensor="nowhere"),
    "no such axis": lambda o: dataclasses.replace(o, axis=7),
    "the wrong axis": lambda o: dataclasses.replace(o, axis=1 - o.axis),
    "a range too short": lambda o: dataclasses.replace(o, stop=o.stop - 1),
    "one range too short": lambda o: dataclasses.replace(o, stop=o.stop - 1) if o.axis == 1 else o,
    "no second convolution": lambda o: None if o.axis == 1 else o,
    "no first convolution": lambda o: None if "expand.conv" in o.tensor else o,
    "no normalization": lambda o: None if "norm" in o.tensor else o,
    "nothing at all": lambda o: None,
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("mode", ["sliced", "stored"])
def test_a_corrupted_module_table_is_noticed(toy_cls, corruption, mode):
    library = corrupted(toy_cls, CORRUPTIONS[corruption])
    plan = full_plan(toy_cls, normalization=mode)
    plan = dataclasses.replace(plan, active={**plan.active, library.slots[1].name: (0, 2)})
    with pytest.raises((DataError, VerificationError)):
        prove(library, plan, link(library, plan))


@pytest.mark.parametrize(
    "change", [{"stream": "nowhere"}, {"output": "nowhere"}, {"stream": "", "output": ""}]
)
def test_a_corrupted_bypass_is_noticed(toy_cls, change):
    slot = dataclasses.replace(toy_cls.slots[1], **change)
    plan = full_plan(toy_cls, normalization="sliced")
    plan = dataclasses.replace(plan, active={**plan.active, slot.name: ()})
    library = with_slot(toy_cls, 1, slot)
    with pytest.raises((DataError, VerificationError)):
        prove(library, plan, link(library, plan))


def test_a_difference_is_reported_with_its_size_and_what_to_do(toy_cls):
    plan = full_plan(toy_cls, normalization="sliced")
    linked = link(toy_cls, plan)
    weights = {**linked.folded.weights}
    weights["classes.bias"] = weights["classes.bias"] + 0.5
    tampered = dataclasses.replace(
        linked, folded=dataclasses.replace(linked.folded, weights=weights)
    )
    with pytest.raises(VerificationError, match=r"differ by 5\.00e-01, more than 1e-04") as caught:
        prove(toy_cls, plan, tampered)
    assert "publish library 'toy-cls' again" in caught.value.hints[0]
    assert isinstance(caught.value, NNFactoryError)


def test_outputs_that_are_no_numbers_are_no_proof(toy_cls):
    plan = full_plan(toy_cls, normalization="sliced")
    weights = {**toy_cls.network.weights}
    weights["classes.bias"] = np.full_like(weights["classes.bias"], np.nan)
    broken = dataclasses.replace(
        toy_cls, network=dataclasses.replace(toy_cls.network, weights=weights)
    )
    with pytest.raises(VerificationError):
        prove(broken, plan, link(broken, plan))
