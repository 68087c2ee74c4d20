"""Cards of imports: what they hold, and what they must not."""

from __future__ import annotations

import pytest

from nnfactory.factory.errors import DataError
from nnfactory.factory.reuse.import_card import read_import_card

CARD = """
name = "net"
labels = "names.txt"
mean = [0, 0.5, 0.25]
std = [1, 0.5, 0.25]
license = "MIT"
input_size = 64
"""


def test_a_card_says_what_options_say(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    (tmp_path / "card.toml").write_text(CARD)
    assert read_import_card(tmp_path / "card.toml") == {
        "name": "net", "labels": ("cat", "dog"), "mean": (0.0, 0.5, 0.25), "std": (1.0, 0.5, 0.25),
        "license": "MIT", "input_size": 64,
    }  # fmt: skip
    (tmp_path / "card.toml").write_text('labels = ["a", "b"]')
    assert read_import_card(tmp_path / "card.toml") == {"labels": ("a", "b")}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("size = 3", "has the key 'size'; it may have name"),
        ("name = 3", "'name' has the wrong type"),
        ("input_size = true", "'input_size' has the wrong type"),
        ("input_size = -5", "at least 1"),
        ("mean = [true, false, true]", "three numbers"),
        ("mean = [1, 2]", "three numbers"),
        ('std = [1, 2, "x"]', "three numbers"),
        ('labels = "none.txt"', "cannot be read"),
        ("=", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, error):
    (tmp_path / "card.toml").write_text(text)
    with pytest.raises(DataError, match=error):
        read_import_card(tmp_path / "card.toml")
