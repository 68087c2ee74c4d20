"""What there is to see of a component: channels, classes, what was forgotten and taught."""

from __future__ import annotations

from dataclasses import dataclass

from ..factory.schema import BuildResult


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyView:
    """Inner channels of a network, and what is left of them.

    Attributes:
        name: The tensor that holds them.
        channels: How many there were.
        kept: How many there are; 0 where a whole branch is gone.
    """

    name: str
    channels: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassView:
    """A class of the component.

    Attributes:
        name: Its name.
        whole: Accuracy of the whole network on it, among the task's classes, or its average
            precision at IoU 0.5 (det), in [0, 1].
        component: Of the component.
        n: Images that show it.
    """

    name: str
    whole: float
    component: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenView:
    """A class that was to be forgotten.

    Attributes:
        name: Its name.
        whole: How well a linear layer on the whole network's last features tells its images from
            those of all other classes: the area under the ROC curve, 0.5 to 1.
        component: The same on the component's.
        n: Images of the class that this was measured on.
    """

    name: str
    whole: float
    component: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaughtView:
    """What training did.

    Attributes:
        epochs: Passes over the images.
        before: Divergence from the whole network on images that are left out, in nats.
        after: The same after training.
        is_kept: Whether the trained weights were taken: only if they are nearer.
    """

    epochs: int
    before: float
    after: float
    is_kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Disassembly:
    """What ``disassemble`` returns.

    Attributes:
        result: The component, as of a build; its accuracies are its own and the whole network's
            on the same images ("library").
        families: In execution order.
        classes: In order.
        values: What chose the channels.
        whole_size: Input size of the whole network in pixels; that of the component is the plan's.
        whole_ms: Latency of the whole network with the task's classes alone, measured on this
            machine or estimated for the device.
        sizes: Input sizes that the network was found to run at: 1 is its own alone; 0 where nobody
            asked: with ``keep_size``, thresholds, or classes that are to be forgotten.
        forgotten: What is left of classes that were to be forgotten.
        taught: What training did, or None without it.
        has_others: Whether all classes that are not named count as one, by a fitted row, in the
            component and in what is called the whole network.
    """

    result: BuildResult
    families: tuple[FamilyView, ...]
    classes: tuple[ClassView, ...]
    values: str
    whole_ms: float
    whole_size: int
    sizes: int = 0
    forgotten: tuple[ForgottenView, ...] = ()
    taught: TaughtView | None = None
    has_others: bool = False
