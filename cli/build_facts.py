"""What was built, as a person reads it: facts with a title each, one a line."""

from __future__ import annotations

from collections.abc import Iterator

from ..factory.schema import Budget, BuildResult, Certificate, Estimate, Gain, Measurement, Plan
from ..factory.units import count_text
from .output import interval_text

Fact = tuple[str, str]  # title, which may be empty, and text


def build_facts(result: BuildResult, budget: Budget) -> Iterator[Fact]:
    """Everything about a network that was built within a budget."""
    estimate, plan = result.estimate, result.plan
    yield "network", _network_text(plan)
    yield from cost_facts(result, budget)
    yield from _accuracy_facts(result)
    yield "size", size_text(estimate)
    yield "choice", _choice_text(result.certificate, plan)
    if result.chosen is not None:
        yield (
            "",
            f"the best of {result.chosen.candidates} such networks, by their accuracy on "
            f"{result.chosen.images} of your images",
        )
    for gain in result.certificate.more:
        yield "more", gain_text(gain)
    yield from proof_facts(result)


def size_text(estimate: Estimate) -> str:
    """What is counted of a network."""
    return (
        f"{estimate.mparams:.3f} M parameters, {estimate.mmacs:.1f} M multiply-adds, peak memory "
        f"{estimate.memory_mib:.2f} MiB, file at most {estimate.file_mib:.2f} MiB"
    )


def proof_facts(result: BuildResult) -> Iterator[Fact]:
    """What was proven, and where the time went."""
    for parity in result.parity:
        yield "proof", f"{parity.b} equals {parity.a}: {parity.max_abs:.0e} on {parity.n} inputs"
    spent = (f"{name} {seconds:.3f} s" for name, seconds in result.seconds.items())
    yield "time", ", ".join(spent)


def _network_text(plan: Plan) -> str:
    active = sum(plan.counts.values())
    blocks = sum(1 for count in plan.counts.values() if count)
    statistics = "; statistics of your images" if plan.normalization == "reestimated" else ""
    classes = count_text(len(plan.task.classes), "class")
    return (
        f"{classes} of {plan.library} at {plan.input_size} px; {blocks} of "
        f"{len(plan.counts)} blocks, {active} modules, sparsity {plan.sparsity:.2f}{statistics}"
    )


def cost_facts(result: BuildResult, budget: Budget) -> Iterator[Fact]:
    """Latency, measured or estimated, and energy where anything is known about it."""
    estimate, measured = result.estimate, result.measurement
    if measured:
        yield "latency", measurement_text(measured)
        if budget.latency_ms is not None or measured.verdict != "PASS":
            yield "verdict", f"{measured.verdict}: {measured.reason}"
    else:
        yield (
            "latency",
            f"estimated p{budget.percentile} {interval_text(estimate.latency_ms, 'ms')} on "
            f"{result.device} with {estimate.runtime} {estimate.precision} "
            "(nobody measured this network there)",
        )
    if estimate.energy_mj is not None:
        yield "energy", f"estimated {interval_text(estimate.energy_mj, 'mJ')} an image"


def _accuracy_facts(result: BuildResult) -> Iterator[Fact]:
    """The estimate, and whatever was measured."""
    estimate = result.estimate
    of = "images like the examples"
    if not result.plan.task.examples:
        of = "validation images of these classes"
    text = f"estimated {interval_text(estimate.accuracy)} on {of}"
    yield "accuracy", text + _least_class_text(estimate)
    for accuracy in result.accuracy:
        value = interval_text(accuracy.interval)
        yield "", f"measured {accuracy.metric} {value} on {accuracy.dataset}"


def _least_class_text(estimate: Estimate) -> str:
    if estimate.least_class_accuracy is None:
        return ""
    value = interval_text(estimate.least_class_accuracy, digits=2)
    return f"; least of a class, {estimate.least_class.split(',')[0]}: {value}"


def _choice_text(certificate: Certificate, plan: Plan) -> str:
    best = "fastest" if certificate.goal == "latency" else "optimal"
    gap = "no gap" if certificate.gap <= 0 else f"gap {certificate.gap:.1e}"
    limits = f"; limited by {', '.join(certificate.binding)}" if certificate.binding else ""
    return (
        f"{best} for the library's values and the latency table at {plan.input_size} px "
        f"({certificate.method}, {gap}){limits}"
    )


def measurement_text(measurement: Measurement) -> str:
    """One line: measured percentiles, the number of runs and the runtime."""
    p50, p90, p99 = (measurement.percentile(q) for q in (50, 90, 99))
    interval = measurement.median_interval()
    memory = measurement.memory_mib
    allocated = "" if memory is None else f"; memory {memory:.2f} MiB"
    return (
        f"measured p50 {p50:.3f} ms [{interval.low:.3f}, {interval.high:.3f}], p90 {p90:.3f}, "
        f"p99 {p99:.3f} (n={measurement.n}, {measurement.runtime}, {measurement.precision}, "
        f"{count_text(measurement.threads, 'thread')})" + allocated
    )


def gain_text(gain: Gain) -> str:
    """What a little more of a budget buys, in words."""
    way = "more" if gain.step > 0 else "less"
    change = f"{abs(gain.step):g} {gain.unit} {way} {gain.budget}".replace("  ", " ")
    if gain.of == "latency":
        return f"{change} saves {gain.gain:.3g} ms, by the latency table"
    return f"{change} buys {100 * gain.gain:+.1f} points of accuracy, estimated"
