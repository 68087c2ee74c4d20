"""Classes that a library has never seen, from a few example images: a library of these classes.

The features stay as they were trained; the layer of the classes is fitted in closed form, once on
the full network, so that plans can be compared, and once more on the network that was chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .assembler.accuracy import logit
from .assembler.strength import doubt_of, moved, size_effect
from .datasets.examples import Examples
from .errors import DataError, UsageError
from .features import features, full_network, with_class_layer
from .graph.network import Array
from .library.library import ModuleLibrary, Prototypes
from .linker import link
from .metrics import proportion_interval
from .modulation import Modulation
from .schema import Interval, Plan, Task

RIDGE = 3.0  # times the mean variance; chosen on training images of other data, see decision 15
SCOPE = 0.95  # share of the trained classes that lie nearer to another one than a novel class may
SPREAD = 1.25  # of the left-out accuracy, measured on training images of other data: decision 15
_SCALES = np.logspace(0, 1.5, 16)  # of the scores, before the softmax


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A layer of classes fitted to examples.

    Attributes:
        weight: (K, C).
        bias: (K,).
        left_out: Accuracy on every example by a layer that was fitted without it and one example
            of every other class: leaving out one alone would tell the layer which class is
            missing.
    """

    weight: Array
    bias: Array
    left_out: Interval


def fit_head(seen: Array, labels: Array, classes: int, spread: Array) -> Head:
    """Ridge regression from features to one-of-K targets of -1 and 1, in closed form.

    Args:
        seen: Features of the examples (N, C).
        labels: Class of each, (N,).
        classes: Number of classes K.
        spread: Standard deviation of every feature within a class, (C,): what regression is told
            about features that a few images cannot tell.

    Source:
        Residuals of what is left out of ridge regression: Hastie, Tibshirani and Friedman, "The
        Elements of Statistical Learning", equation 7.64, for several rows at once. The scale of
        the scores is that of the least cross entropy on what is left out, as in Guo et al., "On
        Calibration of Modern Neural Networks", arXiv:1706.04599.
    """
    center = seen.mean(0)
    x = (seen - center) / spread
    targets = 2.0 * np.eye(classes)[labels] - 1
    mean = targets.mean(0)
    gram = x @ x.T
    strength = RIDGE * np.trace(gram) / len(x)
    inverse = np.linalg.inv(gram + strength * np.eye(len(x)))
    smoother = gram @ inverse + 1 / len(x)
    residual = targets - mean - gram @ inverse @ (targets - mean)
    without = np.empty_like(targets)
    for rows in _one_of_each(labels):
        rest = np.eye(len(rows)) - smoother[np.ix_(rows, rows)]
        without[rows] = targets[rows] - np.linalg.solve(rest, residual[rows])
    scale = _best_scale(without, labels)
    slope = scale * (x.T @ inverse @ (targets - mean)) / spread[:, None]  # (C, K)
    correct = int((without.argmax(1) == labels).sum())
    return Head(
        weight=slope.T,
        bias=scale * mean - center @ slope,
        left_out=proportion_interval(correct, len(labels), level=0.9, spread=SPREAD),
    )


def _one_of_each(labels: Array) -> list[Array]:
    """Parts with an example of every class each; of a larger class some parts have more."""
    place = np.empty(len(labels), np.int64)
    parts = int(np.bincount(labels).min())
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        place[mine] = np.arange(len(mine)) % parts
    return [np.flatnonzero(place == part) for part in range(parts)]


def _best_scale(scores: Array, labels: Array) -> float:
    losses = []
    for scale in _SCALES:
        logits = scale * scores
        logits = logits - logits.max(1, keepdims=True)
        losses.append(
            np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels])
        )
    return float(_SCALES[int(np.argmin(losses))])


def library_of_examples(
    library: ModuleLibrary, examples: Examples, *, allow_novel: bool = False
) -> ModuleLibrary:
    """A library of the examples' classes, with the modules of another one.

    What a module is worth to a new class is what it is worth to the trained classes that the full
    network takes the examples for, weighted by its probabilities. Estimates of accuracy start from
    the left-out accuracy of the full network at the largest input size, and fall with the size and
    with a plan's value as those of the trained classes do.

    Args:
        library: A library for "cls".
        examples: Images of the new classes, at all its input sizes.
        allow_novel: Go on although classes are out of scope.

    Raises:
        DataError: A class is farther from all trained ones than they are from each other.
        UsageError: There are more classes than the library has.
    """
    _check_count(library, examples)
    everything, slot = library.at(max(library.input_sizes)), library.class_slot
    seen, logits = features(full_network(everything), examples.pixels[everything.input_size])
    if not allow_novel:
        check_scope(library, seen, examples)
    weights = _mixture(logits, examples.labels, len(examples.classes))
    head = _head(library, seen, examples)
    sizes = {
        size: replace(
            library.sizes[size],
            curves=weights @ library.sizes[size].curves,
            accuracy=_accuracy(library.at(size), head.left_out, len(examples.classes)),
        )
        for size in library.input_sizes
    }
    modulation = library.modulation and Modulation(
        classes=weights @ library.modulation.classes, widths=library.modulation.widths
    )
    changed = replace(
        everything,
        classes=examples.classes,
        wordnet=(),
        slots=(*library.blocks, replace(slot, modules=slot.modules[: len(examples.classes)])),
        importance={name: weights @ rows for name, rows in library.importance.items()},
        sizes=sizes,
        modulation=modulation,
    )
    return _with_head(changed, head)


def task_of_examples(library: ModuleLibrary, examples: Examples) -> Task:
    """The task of telling the examples' classes apart."""
    return Task(kind=library.kind, classes=examples.classes, examples=examples.digest)


def fitted_to_plan(
    library: ModuleLibrary, plan: Plan, examples: Examples
) -> tuple[ModuleLibrary, Interval]:
    """The library at the plan's size with the layer of the classes fitted to the plan's features.

    Returns:
        It, and the left-out accuracy of the plan's network on the examples, 90 % interval.
    """
    view = library.at(plan.input_size)
    seen, _ = features(link(view, plan).folded, examples.pixels[plan.input_size])
    head = _head(library, seen, examples)
    return _with_head(view, head), head.left_out


def check_scope(library: ModuleLibrary, seen: Array, examples: Examples) -> None:
    """Raise where a class is unlike anything that the library was trained on.

    The distance of a class is that of the mean of its examples from the nearest prototype, in
    standard deviations within a class and per feature, less what a mean of so few images strays.
    It may be at most the distance that 95 % of the trained classes keep from their nearest one.

    Args:
        library: Holds the prototypes.
        seen: Features of the examples at the largest input size (N, C).
        examples: Their classes.

    Raises:
        DataError: A class is out of scope, or the library holds no prototypes.
    """
    prototypes = library.prototypes
    if prototypes is None:
        raise DataError(
            f"Library '{library.name}' holds no prototypes: whether it can serve these classes is "
            "not known.",
            hints=["--allow-novel builds anyway", "publish the library again"],
        )
    limit = float(np.quantile(_nearest_others(prototypes), SCOPE))
    far = {}
    for label, name in enumerate(examples.classes):
        mine = seen[examples.labels == label]
        distance = novelty(prototypes, mine)
        if distance > limit:
            far[name] = distance
    if far:
        listed = ", ".join(f"{name} ({distance:.2f})" for name, distance in far.items())
        raise DataError(
            f"Library '{library.name}' was trained on nothing like: {listed}. Of its "
            f"own classes 95 % lie within {limit:.2f} of another one, in standard deviations per "
            "feature.",
            hints=[
                "--allow-novel builds anyway; look at the left-out accuracy",
                "'nnfactory modules train' makes a library of your own images",
            ],
            details={"novel": far, "limit": limit},
        )


def novelty(prototypes: Prototypes, seen: Array) -> float:
    """Distance of a class from the nearest prototype; see :func:`check_scope`.

    Args:
        prototypes: Of the trained classes.
        seen: Features of at least two images of the class (n, C).
    """
    scaled = seen / prototypes.spread
    gaps = ((scaled.mean(0) - prototypes.mean / prototypes.spread) ** 2).mean(1)
    strays = scaled.var(0, ddof=1).mean() / len(scaled)
    return math.sqrt(max(0.0, float(gaps.min() - strays)))


def _nearest_others(prototypes: Prototypes) -> Array:
    """Distance of every prototype from the nearest other one, (K,)."""
    scaled = prototypes.mean / prototypes.spread
    gaps = ((scaled[:, None] - scaled[None]) ** 2).mean(2)
    np.fill_diagonal(gaps, np.inf)
    return np.asarray(np.sqrt(gaps.min(1)))


def _check_count(library: ModuleLibrary, examples: Examples) -> None:
    if library.kind != "cls":
        raise UsageError(
            f"Library '{library.name}' detects; examples are for classification.",
            hints=["--task cls"],
        )
    if len(examples.classes) > len(library.classes):
        raise UsageError(
            f"Library '{library.name}' has room for {len(library.classes)} classes, the examples "
            f"have {len(examples.classes)}."
        )


def _mixture(logits: Array, labels: Array, classes: int) -> Array:
    """(K', K) which trained classes the full network takes each new class for; rows add up to 1."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    return np.stack([shares[labels == label].mean(0) for label in range(classes)])


def _head(library: ModuleLibrary, seen: Array, examples: Examples) -> Head:
    own = seen.std(0) + 1e-3 * seen.std() + 1e-9
    spread = own if library.prototypes is None else library.prototypes.spread
    return fit_head(seen, examples.labels, len(examples.classes), spread)


def _with_head(library: ModuleLibrary, head: Head) -> ModuleLibrary:
    return replace(library, network=with_class_layer(library.network, head.weight, head.bias))


def _accuracy(library: ModuleLibrary, left_out: Interval, classes: int) -> dict[str, Any]:
    """The fit at the library's size, moved so that the largest full network is worth ``left_out``.

    Its interval grows by that of the left-out accuracy; there is no estimate per class.
    """
    fit, size = library.accuracy["fit"], math.log(classes)
    middle = float(logit(left_out.value))
    whole = moved(np.array([left_out.value]), size_effect(library) - doubt_of(library))
    _, _, slope, bend, *rest = fit["coefficients"]
    return {
        "per_class": [float(whole[0])] * classes,
        "fit": {
            **fit,  # the estimate of the whole is its strength, whatever the number of classes
            "coefficients": [-slope * size - bend * size**2, 1.0, slope, bend, *rest],
            "unknown": max(
                middle - float(logit(left_out.low)), float(logit(left_out.high)) - middle
            ),
        },
    }
