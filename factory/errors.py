"""All errors raised on purpose, on one screen, with the exit code of each.

NNFactoryError                 1  internal error
├── UsageError                 2  a request that cannot be understood
│   ├── SpecError                 a value outside its range
│   └── UnknownNameError          no class, device or library of that name
├── BudgetError                3  no network keeps the budget
├── VerificationError          4  files or outputs are not what they claim to be
├── DeviceError                5  the device cannot be reached or is not prepared
├── InconclusiveError          6  a measurement too disturbed to judge
├── PrecisionError             7  the precision asked for cannot be given
├── MissingExtraError          8  an optional dependency is not installed
└── DataError                  9  a file or folder is not what it should be
    └── ShapeError                tensors that do not fit together
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NNFactoryError(Exception):
    """Base of every error that nnfactory raises on purpose.

    Attributes:
        exit_code: What the command line exits with.
        hints: What the caller can do next; each printed on a line of its own.
        details: Facts for ``--json``, with JSON values.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, hints: Iterable[str] = (), details: dict[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.hints = tuple(hints)
        self.details = details or {}


class UsageError(NNFactoryError, ValueError):
    """The request cannot be understood."""

    exit_code = 2


class SpecError(UsageError):
    """A value is outside its range."""


class UnknownNameError(UsageError):
    """There is no class, device or library of that name."""

    @classmethod
    def with_suggestion(
        cls, kind: str, name: str, known: Iterable[str], *, listing: str
    ) -> UnknownNameError:
        """An error that names the nearest known names.

        Args:
            kind: What was looked up, such as "device profile".
            name: What the user wrote.
            known: Every name that would have been right.
            listing: The command that lists them all.
        """
        by_folded = {candidate.casefold(): candidate for candidate in known}
        close = difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.6)
        names = " or ".join(repr(by_folded[key]) for key in close)
        suggestion = f" Did you mean {names}?" if close else ""
        return cls(f"No {kind} named {name!r}.{suggestion}", hints=[listing])


class BudgetError(NNFactoryError):
    """No network keeps the budget."""

    exit_code = 3


class VerificationError(NNFactoryError):
    """Files or outputs are not what they claim to be."""

    exit_code = 4


class DeviceError(NNFactoryError):
    """The device cannot be reached or is not prepared."""

    exit_code = 5


class InconclusiveError(NNFactoryError):
    """A measurement was disturbed too much to judge."""

    exit_code = 6


class PrecisionError(NNFactoryError):
    """The precision, placement or engine version asked for cannot be given."""

    exit_code = 7


class MissingExtraError(NNFactoryError):
    """An optional dependency is not installed."""

    exit_code = 8

    @classmethod
    def of(cls, extra: str, *, purpose: str) -> MissingExtraError:
        """The error for a missing extra, with the command that installs it."""
        return cls(
            f"{purpose} needs the extra '{extra}', which is not installed.",
            hints=[f'pip install "nnfactory[{extra}]"'],
        )


class DataError(NNFactoryError):
    """A file or folder is not what it should be."""

    exit_code = 9


class ShapeError(DataError, ValueError):
    """Tensors do not fit together."""
