"""The library card: what it tells, read back with a Markdown parser."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nnfactory.factory.library.card import CURVES, card_markdown
from nnfactory.factory.library.store import SHIPPED, open_library

NAMES = ("Nut | Bolt", "*Wire* <b>", "`Rock` [x](y)", "_Tape_ & Co. $1 ~~a~~ #1 \\")


def synthetic_card() -> dict[str, Any]:
    return {
        "name": "parts_4",
        "title": "Four *kinds* of part",
        "kind": "det",
        "classes": list(NAMES),
        "input": {"size": 256, "sizes": [256, 192, 128], "color": "RGB", "resize": "letterbox"},
        "data": {
            "name": "Parts", "origin": "a | b", "license": "CC-BY-4.0",
            "images": {"train": 700, "validation": 80, "test": 220},
        },
        "weights": {"license": "Apache-2.0"},
        "metric": {
            "name": "AP50", "split": "test", "value": 0.612, "low": 0.58, "high": 0.644,
            "level": 0.95, "n": 220, "ap50_95": 0.401,
        },
        "per_class": [
            {"name": NAMES[0], "n": 40, "metric": 0.7, "low": 0.6, "high": 0.8, "train": 150},
            {"name": NAMES[1], "n": 0, "train": 12},
            {"name": NAMES[2], "n": 7, "metric": 0.25, "ap50_95": 0.125, "train": 31},
            {"name": NAMES[3], "n": 9, "metric": 0.5},
        ],
        "normalization": {
            "mode": "stored", "without_images": "stored",
            "validation": {"sliced": 0.41, "stored": 0.49, "reestimated": 0.5},
        },
        "training": {
            "hours": 1.5,
            "compute": "4 cores",
            "recipe": {
                "name": "parts",
                "training": {"epochs": 30, "lr": 1e-3},
                "init": "others 12ab",
                "teacher": {"network": "big_net", "license": "MIT"},
            },
        },
    }  # fmt: skip


def library_with(card: dict[str, Any], folder: Path):
    """A library of that card; the modules are those of a shipped one."""
    return dataclasses.replace(
        open_library(SHIPPED / "fod31"), name=card["name"], kind=card["kind"], card=card,
        classes=tuple(card["classes"]), folder=folder,
    )  # fmt: skip


def parsed(page: str) -> tuple[list[str], dict[str, list[list[str]]], dict[str, str]]:
    """Headings, rows of the table below each heading, and plain text below each heading."""
    headings, tables, texts = [], {}, {}
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(page)
    for before, token in zip(tokens, tokens[1:], strict=False):
        if token.type == "tr_open":
            tables.setdefault(headings[-1], []).append([])
        if token.type != "inline":
            assert token.type != "html_block"
            continue
        parts = [child.content for child in token.children or []]
        kinds = {child.type for child in token.children or []}
        assert kinds <= {"text", "text_special", "code_inline", "image", "softbreak"}
        if before.type == "heading_open":
            headings.append("".join(parts))
            texts[headings[-1]] = ""
        elif before.type in ("td_open", "th_open"):
            tables[headings[-1]][-1].append("".join(parts))
        else:
            texts[headings[-1]] += "".join(parts) + "\n"
    return headings, tables, texts


def test_a_card_tells_everything_that_is_known(tmp_path: Path):
    page = card_markdown(library_with(synthetic_card(), tmp_path))
    headings, tables, texts = parsed(page)
    title = "parts_4: Four *kinds* of part"
    assert headings == [
        title, "What it must not be used for", "Accuracy", "Classes (4)", "Data", "Training",
        "Normalization",
    ]  # fmt: skip
    facts = dict(tables[title][1:])
    assert facts["input"] == "256, 192 or 128 pixels square, RGB, by letterbox"
    assert facts["accuracy"].startswith("AP50 61.2% [58.0%, 64.4%] on 220 test images")
    assert facts["weights"] == "Apache-2.0"
    assert tables["Accuracy"] == [
        ["metric", "value", "95% interval", "n (test images)"],
        ["AP50", "61.2%", "[58.0%, 64.4%]", "220"],
        ["AP50:95", "40.1%", "not estimated", "220"],
    ]
    assert tables["Classes (4)"] == [
        ["class", "training images", "n", "AP50", "AP50:95"],
        [NAMES[0], "150", "40", "70.0% [60.0%, 80.0%]", "–"],
        [NAMES[1], "12", "0", "–", "–"],
        [NAMES[2], "31", "7", "25.0%", "12.5%"],
        [NAMES[3], "–", "9", "50.0%", "–"],
    ]
    assert tables["Data"][1:] == [
        ["name", "Parts"], ["origin", "a | b"], ["licence", "CC-BY-4.0"],
        ["training images", "700"], ["validation images", "80"], ["test images", "220"],
    ]  # fmt: skip
    assert "1.5 hours. Machine: 4 cores." in texts["Training"]
    assert "big_net, licence MIT" in texts["Training"]
    assert "started from the weights of the library others 12ab." in texts["Training"]
    assert tables["Training"][1:] == [["epochs", "30"], ["lr", "0.001"]]
    assert [row[3] for row in tables["Normalization"]] == ["used", "", "yes", ""]
    assert CURVES not in page


def test_what_the_card_says_it_is_not_for_replaces_the_general_sentences(tmp_path: Path):
    library = library_with(synthetic_card() | {"not_for": ["Counting *bolts*."]}, tmp_path)
    assert (
        parsed(card_markdown(library))[2]["What it must not be used for"] == "Counting *bolts*.\n"
    )


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [("det", "Proof that nothing is there"), ("cls", "shows one of the classes")],
)
def test_without_such_sentences_the_general_ones_fit_the_kind(kind, sentence, tmp_path: Path):
    card = synthetic_card() | {"kind": kind}
    card["metric"] = card["metric"] | {"split": "held-out"}
    text = parsed(card_markdown(library_with(card, tmp_path)))[2]["What it must not be used for"]
    assert sentence in text
    assert "safety" in text
    assert "like the held-out images" in text


def test_the_picture_and_the_sizes_are_shown_where_the_files_are(tmp_path: Path):
    card = synthetic_card() | {"files": {"supernet.onnx": "", "gone.json": ""}}
    (tmp_path / CURVES).write_bytes(b"")
    (tmp_path / "library.toml").write_bytes(bytes(512))
    (tmp_path / "supernet.onnx").write_bytes(bytes(3 * 2**20))
    page = card_markdown(library_with(card, tmp_path))
    assert f"]({CURVES})" in page
    assert [(row[0], row[2]) for row in parsed(page)[1]["Files"][1:]] == [
        ("library.toml", "0.5 KiB"), ("supernet.onnx", "3.0 MiB"), ("together", "3.0 MiB"),
    ]  # fmt: skip


def test_without_figures_per_class_the_names_are_listed(tmp_path: Path):
    card = synthetic_card()
    del card["per_class"], card["metric"]["ap50_95"], card["data"]["images"], card["data"]["origin"]
    del card["input"]["sizes"], card["training"]["recipe"]["teacher"]
    _, tables, texts = parsed(card_markdown(library_with(card, tmp_path)))
    assert texts["Classes (4)"] == f"It recognises: {'; '.join(NAMES)}.\n"
    assert "Classes (4)" not in tables
    assert len(tables["Accuracy"]) == 2
    assert ["origin", "not stated"] in tables["Data"]
    assert "256 pixels square" in dict(tables["parts_4: Four *kinds* of part"][1:])["input"]


@given(
    name=st.text(
        st.one_of(
            st.sampled_from("\\`*_{}[]()<>#|~&$!:;-+.0 \n\t"),
            st.characters(exclude_categories=["C", "Z"]),
        ),
        min_size=1,
    ).filter(lambda text: text.strip())
)
def test_any_class_name_is_read_back_as_it_was_written(name):
    card = synthetic_card() | {"classes": [name], "per_class": [{"name": name, "n": 3}]}
    _, tables, _ = parsed(card_markdown(library_with(card, Path("no such folder"))))
    assert tables["Classes (1)"][1] == [" ".join(name.split()), "3"]


@pytest.mark.parametrize("name", ["fod31", "tiny200"])
def test_shipped_libraries_have_a_card(name):
    library = open_library(SHIPPED / name)
    headings, tables, texts = parsed(card_markdown(library))
    count = f"Classes ({len(library.classes)})"
    assert headings[0] == f"{name}: {library.card['title']}"
    assert count in headings
    listed = texts[count] if count not in tables else " ".join(row[0] for row in tables[count])
    assert all(label in listed for label in library.classes)
    assert str(library.card["metric"]["n"]) in tables["Accuracy"][1]
    assert ["licence", library.card["data"]["license"]] in tables["Data"]
    assert {row[0] for row in tables["Files"][1:-1]} == {"library.toml", *library.card["files"]}


def test_the_card_does_not_need_torch():
    code = (
        "import sys; sys.modules['torch'] = None; "
        "from nnfactory.factory.library.card import card_markdown; "
        "from nnfactory.factory.library.store import SHIPPED, open_library; "
        "card_markdown(open_library(SHIPPED / 'tiny200'))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
