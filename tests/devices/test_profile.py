"""Device profiles load, say where their facts come from, and fail helpfully."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnfactory.devices.profile import list_profiles, load_profile
from nnfactory.factory.errors import DataError, UnknownNameError

MINIMAL = """
name = "mine"
title = "My board"
runtime = "tensorrt"
precisions = ["fp16"]
channel_multiple = 8
max_opset = 17
"""


@pytest.mark.parametrize("profile", list_profiles(), ids=lambda profile: profile.name)
def test_every_shipped_profile_states_its_provenance(profile):
    assert profile.title
    assert profile.provenance
    assert load_profile(profile.name) == profile
    assert profile.runtime in ("onnxruntime-cpu", "tensorrt")
    assert profile.max_opset >= 17, "libraries are opset 17"


def test_names_and_aliases_are_unique():
    names = [name for profile in list_profiles() for name in (profile.name, *profile.aliases)]
    assert len(names) == len(set(names))


def test_alias_finds_the_profile():
    assert load_profile("jetson").name == "jetson-orin-nano"
    assert load_profile("host").memory_mib is None


def test_what_is_done_to_a_loaded_profile_stays_with_it():
    load_profile("jetson").facts["loud"] = True
    assert "loud" not in load_profile("jetson").facts


def test_unknown_name_gets_a_suggestion():
    with pytest.raises(UnknownNameError) as caught:
        load_profile("jetson-orin-nan")
    assert "'jetson-orin-nano'" in str(caught.value)
    assert "nnfactory devices list" in caught.value.hints[-1]


def test_profile_loads_from_a_path(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL + "[facts]\nwatts = 15\n", encoding="utf-8")
    assert load_profile(path).facts == {"watts": 15}


@pytest.mark.parametrize(
    "text",
    [
        "name = ",
        MINIMAL.replace("max_opset = 17", ""),
        MINIMAL + "colour = 'green'\n",
        MINIMAL.replace("channel_multiple = 8", "channel_multiple = 0"),
        MINIMAL.replace('["fp16"]', '"fp16"'),
    ],
    ids=["no TOML", "field missing", "unknown field", "out of range", "wrong type"],
)
def test_malformed_profile_raises_data_error_that_names_the_file(tmp_path: Path, text: str):
    path = tmp_path / "broken.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="broken.toml"):
        load_profile(path)


def test_missing_file_raises_data_error(tmp_path: Path):
    with pytest.raises(DataError, match="absent.toml"):
        load_profile(tmp_path / "absent.toml")
