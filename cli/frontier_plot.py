"""A frontier as text: accuracy over latency, for terminals."""

from __future__ import annotations

from collections.abc import Sequence

from ..factory.schema import FrontierPoint

WIDTH, HEIGHT = 64, 14
DOTS, KNEE = "•◦▪▫", "◆"


def frontier_text(lines: Sequence[tuple[str, Sequence[FrontierPoint]]]) -> str:
    """The frontiers of one or several devices in one plot, knees as diamonds.

    Args:
        lines: Name of the device and its points.
    """
    places = [
        (_latency(point), _accuracy(point), KNEE if point.is_knee else DOTS[number % len(DOTS)])
        for number, (_, points) in enumerate(lines)
        for point in points
    ]
    left, right = (end(x for x, _, _ in places) for end in (min, max))
    low, high = (end(y for _, y, _ in places) for end in (min, max))
    rows = [[" "] * WIDTH for _ in range(HEIGHT)]
    for x, y, sign in sorted(places, key=lambda place: place[2] == KNEE):  # knees lie on top
        column = round((x - left) / ((right - left) or 1) * (WIDTH - 1))
        row = round((high - y) / ((high - low) or 1) * (HEIGHT - 1))
        rows[row][column] = sign
    shown = {0: high, HEIGHT - 1: low, (HEIGHT - 1) // 2: high - (high - low) * 0.5}
    text = [
        f"{f'{shown[number]:.2f}' if number in shown else '':>6} │{''.join(row).rstrip()}"
        for number, row in enumerate(rows)
    ]
    text.append(" " * 7 + "└" + "─" * WIDTH)
    ends = f"{left:.3g} ms", f"{right:.3g} ms"
    text.append(" " * 8 + ends[0] + ends[1].rjust(WIDTH - len(ends[0])))
    signs = [f"{DOTS[n % len(DOTS)]} {name}" for n, (name, _) in enumerate(lines)]
    text.append(" " * 8 + "   ".join([*signs, f"{KNEE} knee: more latency buys less from here"]))
    return "\n".join(text)


def _latency(point: FrontierPoint) -> float:
    assert point.estimate.latency_ms is not None
    return point.estimate.latency_ms.value


def _accuracy(point: FrontierPoint) -> float:
    assert point.estimate.accuracy is not None
    return point.estimate.accuracy.value
