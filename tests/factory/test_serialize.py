"""Every noun survives JSON; whatever is no noun is refused."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnfactory.factory import schema
from nnfactory.factory.errors import DataError, SpecError
from nnfactory.factory.serialize import noun_from_table, table_from_noun

NAMES = st.text(max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(1e-6, 1e6)
COUNTS = st.integers(0, 10**12)
SHARES = st.floats(0, 1)
LEVELS = st.floats(0.01, 0.99)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


def tuples(strategy, **sizes):
    return st.lists(strategy, **({"max_size": 3} | sizes)).map(tuple)


def maps(strategy):
    return st.dictionaries(NAMES, strategy, max_size=3)


INTERVALS = st.builds(
    lambda ends, level, n: schema.Interval(
        low=min(ends), value=sorted(ends)[1], high=max(ends), level=level, n=n
    ),
    st.tuples(FLOATS, FLOATS, FLOATS),
    LEVELS,
    COUNTS,
)
TASKS = st.builds(
    schema.Task,
    kind=st.sampled_from(schema.KINDS),
    classes=tuples(NAMES, min_size=2, max_size=4, unique=True),
)
BUDGETS = st.builds(
    schema.Budget,
    latency_ms=st.none() | POSITIVE,
    percentile=st.sampled_from(schema.PERCENTILES),
    memory_mib=st.none() | POSITIVE,
    mparams=st.none() | POSITIVE,
    mmacs=st.none() | POSITIVE,
    file_mib=st.none() | POSITIVE,
    sparsity=st.floats(0, 1, exclude_max=True),
    min_accuracy=st.none() | st.floats(0.01, 0.99),
    min_class_accuracy=st.none() | st.floats(0.01, 0.99),
)
PROFILES = st.builds(
    schema.DeviceProfile,
    name=NAMES,
    title=NAMES,
    runtime=NAMES,
    precisions=tuples(NAMES, min_size=1),
    channel_multiple=st.integers(1, 64),
    max_opset=st.integers(1, 30),
    aliases=tuples(NAMES),
    memory_mib=st.none() | COUNTS,
    power_mode=NAMES,
    facts=maps(JSON),
    provenance=tuples(NAMES),
)
RANGES = st.builds(schema.OwnedRange, tensor=NAMES, axis=COUNTS, start=COUNTS, stop=COUNTS)
MODULES = st.builds(
    schema.Module, slot=NAMES, index=COUNTS, owns=tuples(RANGES), mparams=FLOATS, mmacs=FLOATS
)
SLOTS = st.builds(
    schema.Slot,
    name=NAMES,
    kind=st.sampled_from(["block", "classes"]),
    modules=tuples(MODULES),
    min_groups=COUNTS,
    nodes=tuples(NAMES),
    gated=tuples(NAMES),
    block_params=COUNTS,
    stream=NAMES,
    branch=NAMES,
    output=NAMES,
)
ENERGIES = st.builds(
    schema.EnergyTable,
    fixed_nj=COUNTS,
    slots=maps(tuples(COUNTS)),
    error_low=st.floats(0.1, 1),
    error_high=st.floats(1, 10),
    level=LEVELS,
    n=COUNTS,
)
TABLES = st.builds(
    schema.LatencyTable,
    device=NAMES,
    library=NAMES,
    runtime=NAMES,
    precision=NAMES,
    threads=COUNTS,
    fixed_ns=COUNTS,
    slots=maps(tuples(COUNTS)),
    error_low=st.floats(0.1, 1),
    error_high=st.floats(1, 10),
    level=LEVELS,
    n=COUNTS,
    is_measured=st.booleans(),
    tail=st.dictionaries(st.sampled_from(schema.PERCENTILES), POSITIVE),
    created=NAMES,
    conditions=maps(JSON),
    energy=st.none() | ENERGIES,
)
PLANS = st.builds(
    schema.Plan,
    task=TASKS,
    library=NAMES,
    library_id=NAMES,
    active=maps(st.sets(st.integers(0, 40), max_size=5).map(lambda rows: tuple(sorted(rows)))),
    normalization=NAMES,
    precision=NAMES,
    sparsity=SHARES,
)
ESTIMATES = st.builds(
    schema.Estimate,
    latency_ms=st.none() | INTERVALS,
    accuracy=st.none() | INTERVALS,
    mparams=FLOATS,
    mmacs=FLOATS,
    memory_mib=FLOATS,
    file_mib=FLOATS,
    least_class=NAMES,
    least_class_accuracy=st.none() | INTERVALS,
)
GAINS = st.builds(schema.Gain, budget=NAMES, step=FLOATS, unit=NAMES, gain=FLOATS, of=NAMES)
CERTIFICATES = st.builds(
    schema.Certificate,
    method=NAMES,
    objective=FLOATS,
    bound=FLOATS,
    gap=FLOATS,
    goal=NAMES,
    binding=tuples(NAMES),
    more=tuples(GAINS),
)
SPECS = st.builds(schema.TensorSpec, name=NAMES, dtype=NAMES, shape=tuples(COUNTS))
PARITIES = st.builds(schema.Parity, a=NAMES, b=NAMES, n=COUNTS, max_abs=FLOATS, tolerance=FLOATS)
ARTIFACTS = st.builds(
    schema.Artifact,
    folder=NAMES,
    files=maps(NAMES),
    inputs=tuples(SPECS),
    outputs=tuples(SPECS),
    precision_requested=NAMES,
    precision_achieved=NAMES,
)
MEASUREMENTS = st.builds(
    schema.Measurement,
    device=NAMES,
    runtime=NAMES,
    precision=NAMES,
    threads=COUNTS,
    samples_ms=tuples(POSITIVE, min_size=2, max_size=5),
    verdict=st.sampled_from(schema.VERDICTS),
    reason=NAMES,
    rss_mib=FLOATS,
    memory_mib=st.none() | FLOATS,
    conditions=maps(JSON),
    versions=maps(NAMES),
)
POINTS = st.builds(schema.FrontierPoint, plan=PLANS, value=SHARES, estimate=ESTIMATES)
ACCURACIES = st.builds(
    schema.Accuracy,
    subject=st.sampled_from(schema.SUBJECTS),
    dataset=NAMES,
    metric=NAMES,
    interval=INTERVALS,
    sha256=NAMES,
)
CHOICES = st.builds(schema.MeasuredChoice, candidates=COUNTS, images=COUNTS, accuracy=SHARES)
RESULTS = st.builds(
    schema.BuildResult,
    plan=PLANS,
    estimate=ESTIMATES,
    certificate=CERTIFICATES,
    artifact=ARTIFACTS,
    parity=tuples(PARITIES),
    measurement=st.none() | MEASUREMENTS,
    device=NAMES,
    seconds=maps(FLOATS),
    frontier=tuples(POINTS, max_size=2),
    accuracy=tuples(ACCURACIES, max_size=2),
    chosen=st.none() | CHOICES,
)
STATUSES = st.builds(
    schema.TrainingStatus,
    step=COUNTS,
    steps=COUNTS,
    loss=FLOATS,
    metric=st.none() | st.tuples(SHARES, SHARES),
    seconds=FLOATS,
)
NOUNS = {
    schema.Interval: INTERVALS,
    schema.Task: TASKS,
    schema.Budget: BUDGETS,
    schema.DeviceProfile: PROFILES,
    schema.OwnedRange: RANGES,
    schema.Module: MODULES,
    schema.Slot: SLOTS,
    schema.EnergyTable: ENERGIES,
    schema.LatencyTable: TABLES,
    schema.Plan: PLANS,
    schema.Estimate: ESTIMATES,
    schema.Certificate: CERTIFICATES,
    schema.TensorSpec: SPECS,
    schema.Parity: PARITIES,
    schema.Artifact: ARTIFACTS,
    schema.Measurement: MEASUREMENTS,
    schema.FrontierPoint: POINTS,
    schema.Accuracy: ACCURACIES,
    schema.MeasuredChoice: CHOICES,
    schema.BuildResult: RESULTS,
    schema.Gain: GAINS,
    schema.TrainingStatus: STATUSES,
}
ANY_NOUN = st.one_of(*NOUNS.values())


def test_every_noun_of_the_schema_has_a_strategy():
    nouns = {
        value
        for _, value in inspect.getmembers(schema, dataclasses.is_dataclass)
        if value.__module__ == schema.__name__
    }
    assert nouns == set(NOUNS)


@pytest.mark.parametrize("noun_type", NOUNS, ids=lambda noun_type: noun_type.__name__)
@given(data=st.data())
def test_every_noun_survives_json(noun_type, data):
    noun = data.draw(NOUNS[noun_type])
    text = json.dumps(table_from_noun(noun))
    assert noun_from_table(noun_type, json.loads(text)) == noun


@given(noun=ANY_NOUN, name=NAMES)
def test_an_unknown_field_is_refused_by_name(noun, name):
    table = table_from_noun(noun)
    if name not in table:
        with pytest.raises(DataError, match=f"{type(noun).__name__} has no field"):
            noun_from_table(type(noun), {**table, name: 1})


@given(noun=ANY_NOUN, data=st.data())
def test_a_field_without_a_default_must_be_there(noun, data):
    needed = [
        f.name
        for f in dataclasses.fields(noun)
        if f.default is f.default_factory is dataclasses.MISSING
    ]
    table = table_from_noun(noun)
    for name in needed:
        with pytest.raises(DataError, match=name):
            noun_from_table(type(noun), {k: v for k, v in table.items() if k != name})


@given(noun=ANY_NOUN, data=st.data())
def test_a_field_of_another_type_is_refused_with_its_place(noun, data):
    table = copy.deepcopy(table_from_noun(noun))
    name = data.draw(st.sampled_from(sorted(table)))
    table[name] = data.draw(wrong_values(typing.get_type_hints(type(noun))[name]))
    with pytest.raises(DataError, match=rf"{type(noun).__name__}\.{name}"):
        noun_from_table(type(noun), table)


def wrong_values(wanted: object):
    """JSON values that are of another type than ``wanted``."""
    text = str(wanted)
    right: list[type] = []
    if "Mapping" in text or "schema." in text:
        right = [dict]
    elif text == "<class 'bool'>":
        right = [bool]
    elif "str" in text:
        right = [str]
    elif "float" in text:
        right = [int, float]
    elif "int" in text:
        right = [int]
    if text.startswith("tuple"):
        right = [list]
    values = [True, False, 1, 0, 0.5, "a", [[[]]], {"\x00": {"\x00": []}}]
    if "None" not in text:
        values.append(None)
    return st.sampled_from([value for value in values if type(value) not in right])


@pytest.mark.parametrize("table", [None, 3, "text", [], [1], True])
def test_only_a_table_is_a_noun(table):
    with pytest.raises(DataError, match="Budget must be a table"):
        noun_from_table(schema.Budget, table)


@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_number(value):
    with pytest.raises(DataError, match=r"Budget\.percentile"):
        noun_from_table(schema.Budget, {"percentile": value})
    with pytest.raises(DataError, match=r"Budget\.sparsity"):
        noun_from_table(schema.Budget, {"sparsity": value})


def test_a_wrong_item_or_key_inside_a_field_is_refused():
    with pytest.raises(DataError, match=r"Task\.classes: 3"):
        noun_from_table(schema.Task, {"kind": "det", "classes": ["a", 3]})
    plan = {"task": {"kind": "det", "classes": ["a"]}, "library": "x", "library_id": "y"}
    with pytest.raises(DataError, match=r"Plan\.active"):
        noun_from_table(schema.Plan, {**plan, "active": {"slot": [0, "1"]}})
    with pytest.raises(DataError, match=r"Plan\.task has no field 'colour'"):
        noun_from_table(
            schema.Plan, {**plan, "active": {}, "task": {"kind": "det", "colour": "red"}}
        )


def test_a_key_that_should_be_a_number_is_refused():
    table = {
        "device": "", "library": "", "runtime": "", "precision": "", "threads": 1, "fixed_ns": 1,
        "slots": {}, "error_low": 1.0, "error_high": 1.0, "level": 0.9, "n": 1,
        "is_measured": True, "tail": {"p90": 1.1},
    }  # fmt: skip
    with pytest.raises(DataError, match=r"LatencyTable\.tail"):
        noun_from_table(schema.LatencyTable, table)


def test_a_value_outside_its_range_is_refused_as_by_the_noun_itself():
    with pytest.raises(SpecError, match="must be positive"):
        noun_from_table(schema.Budget, {"latency_ms": -1})
