"""Channels on their way through a network: which are one, and which must stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from .network import Network, names_read

Ints = NDArray[np.int64]
WeightAxis = tuple[str, int]


@dataclass
class Tracer:
    """Channels as numbers; which are one is known when all operators have been seen.

    Attributes:
        network: The network.
        shapes: Of its tensors.
        position: Of the node that is followed.
        channels: Per tensor the channels of its axis 1, (C,).
        weights: Per weight and axis the channels that its positions go with.
        owners: Per weight and axis the nodes that said so.
        folded: Tensors whose channels are spread over other axes by a reshape: of which tensor,
            and the channels as they lie there.
        shuffles: As in :class:`~.coupling.Coupling`.
        ties: Channels that are one, position by position.
        fixes: Channels that must stay, and why.
        not_understood: As in :class:`~.coupling.Coupling`.
        count: How many channels there are so far.
    """

    network: Network
    shapes: Mapping[str, tuple[int, ...]]
    position: int = 0
    channels: dict[str, Ints] = field(default_factory=dict)
    weights: dict[WeightAxis, Ints] = field(default_factory=dict)
    owners: dict[WeightAxis, set[int]] = field(default_factory=dict)
    folded: dict[str, tuple[str, Ints]] = field(default_factory=dict)
    shuffles: dict[str, tuple[str, Ints]] = field(default_factory=dict)
    ties: list[tuple[Ints, Ints]] = field(default_factory=list)
    fixes: list[tuple[Ints, str]] = field(default_factory=list)
    not_understood: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def is_known(self, name: str) -> bool:
        """Whether an input is constant or its channels are in sight."""
        return not name or self.is_weight(name) or self.seen(name) is not None

    def seen(self, name: str) -> Ints | None:
        """The channels of a tensor, also where they are folded."""
        return self.channels.get(self.folded[name][0] if name in self.folded else name)

    def new(self, count: int) -> Ints:
        """Channels that were not there before."""
        self.count += count
        return np.arange(self.count - count, self.count)

    def fresh(self, tensor: str) -> Ints:
        """New channels for a tensor."""
        self.channels[tensor] = self.new(self.shapes[tensor][1])
        return self.channels[tensor]

    def tie(self, one: Ints, other: Ints) -> None:
        """Both are the same channels."""
        self.ties.append((one, other))

    def own(self, weight: str, axis: int, channels: Ints) -> None:
        """The positions of a weight along an axis go with channels; shared weights tie them."""
        self.owners.setdefault((weight, axis), set()).add(self.position)
        known = self.weights.setdefault((weight, axis), channels)
        if known is not channels:
            self.tie(known, channels)

    def fix(self, channels: Ints | None, reason: str) -> None:
        """Channels that cannot be removed."""
        if channels is not None:
            self.fixes.append((channels, reason))

    def fix_shared_weights(self) -> None:
        """Weights that something reads without saying which axis goes with which channels."""
        readers: dict[str, set[int]] = {}
        for position, node in enumerate(self.network.nodes):
            for name in names_read(node):
                readers.setdefault(name, set()).add(position)
        for (weight, axis), channels in self.weights.items():
            if readers[weight] - self.owners[weight, axis] or weight in self.network.outputs:
                self.fix(channels, f"weight '{weight}' is read in another way, too")

    def is_weight(self, name: str) -> bool:
        """Whether a tensor is constant."""
        return name in self.network.weights

    def constant(self, node: NodeProto, position: int) -> NDArray[np.generic] | None:
        """The value of a constant input; None if it is missing or not constant."""
        if position >= len(node.input) or not node.input[position]:
            return None
        return self.network.weights.get(node.input[position])
