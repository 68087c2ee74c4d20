"""Whether a network keeps its budget when it is measured on this machine."""

from __future__ import annotations

from dataclasses import replace

from ..factory.errors import BudgetError, UsageError, VerificationError
from ..factory.schema import Budget, DeviceProfile, Measurement
from ..factory.units import MIB

ROUNDS = 3  # a measurement that breaks the budget corrects the costs, and the choice is made again


def measure_model(model: bytes, profile: DeviceProfile, budget: Budget) -> Measurement:
    """Measure on this machine; once more when the first time was disturbed.

    The memory is measured where it has a budget: that takes a process of its own.
    """
    from ..devices.measure import measure_host
    from ..devices.memory import allocated_mib

    measurement = measure_host(model, device=profile.name, budget=budget)
    if measurement.verdict == "INCONCLUSIVE":
        measurement = measure_host(model, device=profile.name, budget=budget)
    if budget.memory_mib is None:
        return measurement
    return replace(measurement, memory_mib=allocated_mib(model))


def check_limits(budget: Budget, what: str) -> None:
    """Raise unless a budget limits nothing but what is counted or measured of a whole network.

    Args:
        budget: What is asked for.
        what: Is limited, for people.

    Raises:
        UsageError: It limits something else.
    """
    known = Budget(
        latency_ms=budget.latency_ms, memory_mib=budget.memory_mib, mparams=budget.mparams,
        mmacs=budget.mmacs,
    )  # fmt: skip
    if budget != known:
        raise UsageError(
            f"{what} knows limits of median latency, memory, parameters and multiply-adds."
        )


def excess_mib(measurement: Measurement | None, budget: Budget) -> float:
    """How much more memory was allocated than the budget has."""
    if measurement is None or measurement.memory_mib is None or budget.memory_mib is None:
        return 0.0
    return max(0.0, measurement.memory_mib - budget.memory_mib)


def broken(measurement: Measurement, budget: Budget, *, hint: str) -> BudgetError:
    """What the last try was like, when nothing kept the budget that was measured.

    Args:
        measurement: Of the last try.
        budget: What was asked for.
        hint: What else can be done than to loosen it.
    """
    if measurement.verdict == "FAIL":
        reached = measurement.percentile(budget.percentile)
        name, asked = f"p{budget.percentile}", f"{budget.latency_ms:g} ms"
        took, option = f"took {reached:.3f} ms", f"--latency {reached * 1.05:.3g}ms"
        measured = {"latency": reached}
    else:
        assert measurement.memory_mib is not None
        reached = measurement.memory_mib
        name, asked = "memory", f"{budget.memory_mib:g} MiB"
        took, option = f"had {reached:.4g} MiB", f"--memory {reached * 1.01:.4g}MiB"
        measured = {"memory": reached}
    return BudgetError(
        f"No network kept {name} <= {asked} on '{measurement.device}' when measured: the last of "
        f"at most {ROUNDS} tries {took}.",
        hints=[option, hint],
        details={"measured": measured},
    )


def check_file_size(model: bytes, budget: Budget) -> None:
    """Raise if a file is larger than its estimate, which is an upper bound, let it be.

    Raises:
        VerificationError: It is.
    """
    if budget.file_mib is not None and len(model) > budget.file_mib * MIB:
        raise VerificationError(
            f"The file has {len(model) / MIB:.4g} MiB, more than the {budget.file_mib:g} MiB that "
            "it was estimated to keep."
        )
