"""Budgets that nothing keeps: exit code 3 and what is reachable."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from fake_host import FakeHost
from printed import error_of, is_empty

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--latency", "1us"], "latency"),
        (["--params", "0.2k"], "params"),
        (["--memory", "1kB"], "memory"),
        (["--sparsity", "0.9999"], "sparsity"),
        (["--macs", "1k"], "macs"),
        (["--size", "1kB"], "size"),
    ],
)
def test_infeasible_budget_prints_the_tightest_value(
    build: Run, folder: Path, words: list[str], name: str
):
    finished = build("-o", "made", *words)
    assert finished.exit_code == 3
    assert finished.stdout == ""
    assert finished.stderr.startswith("error[NF3]: ")
    assert "the smallest network has" in finished.stderr
    (hint,) = re.findall(rf"try: --{name} (\S+)", finished.stderr)
    error = error_of(build("-o", "made", *words, "--json"))
    assert error["code"] == 3
    assert set(error["tightest"]) == {name}
    assert error["tightest"][name] == pytest.approx(float(re.sub("[A-Za-z]+$", "", hint)), rel=1e-3)
    assert is_empty(folder)
    assert build("-o", "made", f"--{name}", hint).exit_code == 0  # the hint works


@pytest.mark.parametrize("flag", ["--min-accuracy", "--min-class-accuracy"])
def test_an_accuracy_that_no_network_has_prints_the_most(build: Run, folder: Path, flag: str):
    finished = build("-o", "made", flag, "99.9%")
    assert finished.exit_code == 3
    assert "accuracy >= 0.999: the whole network has" in finished.stderr
    (hint,) = re.findall(rf"try: {flag} (\S+)", finished.stderr)
    error = error_of(build("-o", "made", flag, "0.999", "--json"))
    (name,) = error["tightest"]
    assert error["relaxed"] == error["tightest"] == {name: pytest.approx(float(hint), rel=1e-3)}
    assert is_empty(folder)
    assert build("-o", "made", flag, hint).exit_code == 0


def test_with_an_accuracy_alone_the_fastest_network_is_built(build: Run, folder: Path):
    every = json.loads(build("-o", "all", "--json").stdout)
    # A hundredth less is what a faster network has.
    wanted = every["frontier"][1]["accuracy"]["value"] + 0.0099
    finished = build("-o", "made", "--min-accuracy", f"{wanted:.4f}")
    assert finished.exit_code == 0, finished.output
    assert "fastest for the library's values" in finished.stdout
    assert "0.01 less accuracy saves" in " ".join(finished.stdout.split())
    answer = json.loads(build("-o", "made", "--min-accuracy", f"{wanted:.4f}", "--json").stdout)
    assert answer["certificate"]["goal"] == "latency"
    assert answer["certificate"]["binding"] == ["accuracy"]
    assert answer["estimate"]["accuracy"]["value"] >= round(wanted, 4)
    assert answer["estimate"]["latency_ms"]["value"] < every["estimate"]["latency_ms"]["value"]
    manifest = json.loads((folder / "made" / "manifest.json").read_text())
    assert manifest["budgets"]["asked"]["min_accuracy"] == round(wanted, 4)
    assert manifest["assembly"]["goal"] == "latency"
    (gain,) = manifest["assembly"]["more"]
    assert (gain["budget"], gain["step"], gain["of"]) == ("accuracy", -0.01, "latency")


def test_what_a_little_more_buys_is_printed(build: Run):
    every = json.loads(build("-o", "all", "--json").stdout)
    limit = 0.5 * every["estimate"]["mparams"]
    finished = build("-o", "made", "--params", f"{limit}M")
    text = " ".join(finished.stdout.split())
    assert re.search(r"more 0\.\d+ M more params buys \+\d+\.\d points of accuracy", text), text


def test_several_infeasible_budgets_are_all_named(build: Run):
    finished = build("--latency", "1us", "--params", "0.2k", "--json")
    assert finished.exit_code == 3
    assert set(error_of(finished)["tightest"]) == {"latency", "params"}


def test_budget_that_fails_when_measured_is_infeasible(build: Run, host: FakeHost, folder: Path):
    host.answers = [(50.0, 0.0)]
    finished = build("--latency", "10ms", device="host")
    assert finished.exit_code == 3
    assert is_empty(folder)
