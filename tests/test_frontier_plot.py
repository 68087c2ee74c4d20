"""The plot of a frontier in a terminal and as a picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from nnfactory import api
from nnfactory.api import Frontier
from nnfactory.cli.frontier_plot import HEIGHT, WIDTH, frontier_text
from nnfactory.factory.errors import UsageError
from nnfactory.factory.schema import Interval

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def frontier(toy_cls) -> Frontier:
    found = api.plan(task="cls", device="jetson", library=str(toy_cls.folder), points=9)
    points = [dataclasses.replace(p, is_knee=n == 3) for n, p in enumerate(found.points)]
    return dataclasses.replace(found, points=tuple(points))


def test_the_ends_of_a_frontier_lie_in_the_corners(frontier: Frontier):
    lines = frontier_text([("board", frontier.points)]).splitlines()
    rows = [line[8:].ljust(WIDTH) for line in lines[:HEIGHT]]
    assert rows[-1][0] == "•"
    assert rows[0][-1] == "•"
    assert sum(row.count("◆") for row in rows) == 1
    assert sum(row.count("•") for row in rows) <= len(frontier.points) - 1
    first, last = (frontier.points[n].estimate for n in (0, -1))
    assert f"{last.accuracy.value:.2f}" in lines[0]
    assert f"{first.accuracy.value:.2f}" in lines[HEIGHT - 1]
    assert f"{first.latency_ms.value:.3g} ms" in lines[HEIGHT + 1]
    assert "• board" in lines[-1]


def test_every_device_has_a_sign_of_its_own(frontier: Frontier):
    late = Interval(low=9.0, value=9.0, high=9.0)
    slow = [
        dataclasses.replace(
            p, is_knee=False, estimate=dataclasses.replace(p.estimate, latency_ms=late)
        )
        for p in frontier.points
    ]
    text = frontier_text([("fast", frontier.points), ("slow", slow)])
    assert "• fast   ◦ slow" in text
    assert text.splitlines()[0].endswith("◦")  # as accurate as the last of the fast, and later


def test_a_single_point_is_a_plot_too(frontier: Frontier):
    assert "•" in frontier_text([("board", frontier.points[:1])])


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")])
def test_the_picture_is_of_the_asked_format(frontier: Frontier, name: str, start: bytes):
    pytest.importorskip("matplotlib")
    api.draw_frontiers([frontier, dataclasses.replace(frontier, device="other")], Path(name))
    content = Path(name).read_bytes()
    assert content.startswith(start)
    if name.endswith("SVG"):
        api.draw_frontiers([frontier], Path("b.svg"))
        assert b"<svg" in content


@pytest.mark.parametrize(
    ("name", "text"), [("a.pdf", r"\.png or \.svg"), ("gone/a.png", "no folder")]
)
def test_a_picture_that_cannot_be_drawn_is_refused(frontier: Frontier, name: str, text: str):
    for ask in (api.check_picture, lambda place: api.draw_frontiers([frontier], place)):
        with pytest.raises(UsageError, match=text):
            ask(Path(name))
    assert list(Path.cwd().iterdir()) == []
