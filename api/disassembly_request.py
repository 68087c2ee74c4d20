"""What can be asked of a component, and what makes no sense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..factory.errors import DataError, UnknownNameError, UsageError
from ..factory.schema import Budget
from .keeping import check_limits
from .request import need_torch

if TYPE_CHECKING:
    from ..factory.reuse.donor import Donor


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for, as in :func:`disassemble`."""

    classes: tuple[str, ...]
    forget: tuple[str, ...]
    share: float | None
    budget: Budget
    thresholds: tuple[float, float] | str | None
    reject: bool
    keep_size: bool
    epochs: int


def check_wish(wish: Wish) -> None:
    """Raise if the request makes no sense."""
    budget = wish.budget
    if twice := sorted(set(wish.classes) & set(wish.forget)):
        raise UsageError(f"Class {twice[0]!r} cannot be kept and forgotten.")
    check_limits(budget, "A component")
    if wish.share is not None and not 0 < wish.share < 1:
        raise UsageError(f"A share of the latency lies between 0 and 1, got {wish.share:g}.")
    if wish.share is not None and budget.latency_ms is not None:
        raise UsageError("Limit the latency in milliseconds or as a share, not both.")
    _check_thresholds(wish)
    if wish.epochs < 0:
        raise UsageError(f"There are no {wish.epochs} passes over images.")
    if wish.epochs:
        need_torch("--finish")


def check_classes(wish: Wish, donor: Donor) -> None:
    """Raise unless there is something to tell apart: a detector also tells objects from nothing."""
    for name in (*wish.classes, *wish.forget):
        try:
            donor.outputs_of([name])
        except DataError as error:
            some = f"{', '.join(donor.labels[:5])}{' ..' if len(donor.labels) > 5 else ''}"
            raise UnknownNameError.with_suggestion(
                "class", name, donor.labels, listing=f"'{donor.name}' knows {some}"
            ) from error
    is_open = wish.reject or donor.head is not None
    if not wish.classes and not wish.forget:
        raise UsageError("Name the classes of the component, or those to forget.")
    if wish.classes and len(set(wish.classes)) < (1 if is_open else 2):
        raise UsageError(
            "A component needs two classes at least: one alone is always right, whatever it sees.",
            hints=["name another class to tell it from", "--reject tells it from everything else"],
        )


def _check_thresholds(wish: Wish) -> None:
    is_limited = wish.share is not None or wish.budget != Budget()
    if wish.thresholds is None:
        if not is_limited and not wish.forget:
            raise UsageError(
                "Say how small the component must be.",
                hints=["--share 0.5 for half of the latency", "--latency, --params or --macs",
                       "--thresholds for whatever the paper's thresholds keep"],
            )  # fmt: skip
        return
    if is_limited or wish.forget:
        raise UsageError("Thresholds know no limits and forget nothing: ask for either.")
    pair = () if wish.thresholds == "paper" else wish.thresholds
    if isinstance(pair, str) or len(pair) not in (0, 2) or not all(0 <= x <= 1 for x in pair):
        raise UsageError(f"Thresholds are alpha and beta in [0, 1], got {wish.thresholds!r}.")
