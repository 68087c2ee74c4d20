"""Budgets and classes as people write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


def test_latency_in_any_unit_gives_the_same_plan(build_cls: Run, folder: Path):
    def plan_of(limit: str) -> str:
        finished = build_cls("--latency", limit, "--json", "--overwrite", "-o", "made")
        assert finished.exit_code == 0, finished.output
        return json.loads(finished.stdout)["plan"]["id"]

    middle = json.loads(build_cls("--json").stdout)["frontier"][2]["latency_ms"]["value"]
    for ms in (5.0, round(middle + 0.0004, 4)):
        texts = (f"{ms:g}", f"{ms:g}ms", f"{ms / 1000:.7f}s", f"{1000 * ms:.1f}us", f"{ms:g} MS")
        assert len({plan_of(text) for text in texts}) == 1


def test_sizes_in_any_unit_give_the_same_plan(build_cls: Run):
    plans = set()
    for words in (("--params", "9k"), ("--params", "0.009"), ("--params", "0.009M")):
        plans.add(json.loads(build_cls(*words, "--json", "-o", "p").stdout)["plan"]["id"])
    assert len(plans) == 1
    plans = set()
    for words in (("--memory", "1"), ("--memory", "1MiB"), ("--memory", "1024KiB")):
        plans.add(json.loads(build_cls(*words, "--json", "-o", "m").stdout)["plan"]["id"])
    assert len(plans) == 1


def test_classes_are_read_from_a_file_as_well(build_cls: Run, folder: Path):
    (folder / "frogs.txt").write_text(
        "\ufeff# frogs and what eats them\n\nbullfrog, Rana catesbeiana\n  tailed frog \n", "utf-8"
    )
    finished = build_cls("--class-file", "frogs.txt", "--class", "goldfish", "-o", "a", "--json")
    answer = json.loads(finished.stdout)
    assert [name.split(",")[0] for name in answer["plan"]["task"]["classes"]] == [
        "goldfish", "bullfrog", "tailed frog",
    ]  # fmt: skip
    assert "--class-file frogs.txt" in answer["frontier"][0]["command"]
    text = json.loads((folder / "a" / "manifest.json").read_text())["provenance"]["command"]
    assert "--class-file frogs.txt" in text


@pytest.mark.parametrize(
    ("content", "text"), [(b"# none\n", "names no class"), (b"\xff", "no text")]
)
def test_a_file_without_classes_is_refused(build_cls: Run, folder: Path, content: bytes, text: str):
    (folder / "frogs.txt").write_bytes(content)
    finished = build_cls("--class-file", "frogs.txt")
    assert finished.exit_code == 2
    assert text in finished.stderr
    assert build_cls("--class-file", "gone.txt").exit_code == 2


def test_class_names_with_a_comma_have_an_option_of_their_own(build_cls: Run):
    whole = ("--class", "goldfish, Carassius auratus", "--class", "tailed frog, bell toad")
    plans = {
        json.loads(build_cls(*words, "--json").stdout)["plan"]["id"]
        for words in (
            whole,
            ("--classes", "tailed frog,goldfish"),
            ("--classes", "n01443537", "--class", "Tailed Frog"),
        )
    }
    assert len(plans) == 1
