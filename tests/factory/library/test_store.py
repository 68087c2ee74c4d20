"""Libraries on disk: whatever is missing, damaged or malformed is refused; names are found."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nnfactory.factory.errors import DataError, UnknownNameError
from nnfactory.factory.library import store
from nnfactory.factory.library.store import (
    default_library,
    library_folders,
    open_library,
    read_card,
    slot_from_table,
    table_from_slot,
)

FILES = ("accuracy.json", "modules.json", "statistics.npz", "supernet.onnx", "values.safetensors")


@pytest.fixture
def folder(toy_cls, tmp_path: Path) -> Path:
    """A copy of the toy library that a test may damage."""
    return Path(shutil.copytree(toy_cls.folder, tmp_path / "broken"))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty folders in place of the shipped libraries and those of the user."""
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    monkeypatch.setattr(store, "SHIPPED", shipped)
    monkeypatch.setattr(store, "user_libraries", lambda: own)
    return shipped, own


def sign(folder: Path, name: str) -> None:
    """Make the card accept a changed file."""
    card = (folder / "library.toml").read_text(encoding="utf-8")
    lines = [line for line in card.splitlines() if not line.startswith((f'"{name}"', f"{name} "))]
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert lines[-1].count("=") == 1  # the table of files comes last
    (folder / "library.toml").write_text("\n".join([*lines, f'"{name}" = "{digest}"']) + "\n")


def change_card(folder: Path, old: str, new: str) -> None:
    card = (folder / "library.toml").read_text(encoding="utf-8")
    assert old in card
    (folder / "library.toml").write_text(card.replace(old, new), encoding="utf-8")


def test_an_opened_library_holds_what_was_written(toy_library, toy_parts):
    assert toy_library.id == read_card(toy_library.folder)[1]
    assert len(toy_library.id) == 16
    modules = sum(slot.groups for slot in toy_library.blocks)
    for array in toy_library.importance.values():
        assert array.shape == (len(toy_library.classes), modules)
        assert (array > 0).all()
    assert toy_library.input_sizes == toy_parts.sides
    for data in toy_library.sizes.values():
        assert data.curves.shape == (len(toy_library.classes), modules + len(toy_library.blocks))
        assert data.statistics.counts.shape == (6, len(toy_library.blocks))
        for variance in data.statistics.variance.values():
            assert (variance >= 0).all()
        assert data.accuracy["fit"]["n"] == len(data.accuracy["pairs"]) == 60


def test_sizes_hold_what_was_measured_at_each(toy_library):
    large, small = (toy_library.sizes[size] for size in toy_library.input_sizes)
    assert not np.array_equal(large.curves, small.curves)
    assert large.accuracy["per_class"] != small.accuracy["per_class"]
    node = next(iter(large.statistics.mean))
    assert not np.array_equal(large.statistics.mean[node], small.statistics.mean[node])


def test_opening_twice_gives_the_same_library(toy_cls):
    assert open_library(toy_cls.folder) is open_library(str(toy_cls.folder))


def test_a_changed_card_is_another_library(folder):
    first = open_library(folder)
    change_card(folder, "Toy modules", "Other modules")
    second = open_library(folder)
    assert first.id != second.id


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        open_library(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(DataError, match=f"{name} is damaged") as caught:
        open_library(folder)
    assert "publish it again" in caught.value.hints[0]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_card_does_not_vouch_for_is_refused(folder, name):
    card = (folder / "library.toml").read_text(encoding="utf-8").splitlines()
    kept = [line for line in card if name not in line]
    assert len(kept) == len(card) - 1
    (folder / "library.toml").write_text("\n".join(kept) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=name):
        open_library(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"nothing of use", b"PK\x03\x04 cut short", b"[]", b"{}"])
def test_a_malformed_file_is_refused_even_with_the_right_hash(folder, name, content):
    (folder / name).write_bytes(content)
    sign(folder, name)
    with pytest.raises(DataError):
        open_library(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_refused_even_with_the_right_hash(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    sign(folder, name)
    with pytest.raises(DataError):
        open_library(folder)


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/hostname", "nested/../../secret.txt"])
def test_a_path_that_leaves_the_folder_is_refused(folder, name):
    secret = folder.parent / "secret.txt"
    secret.write_text("secret")
    (folder / "nested").mkdir()
    digest = hashlib.sha256(b"secret").hexdigest()
    card = (folder / "library.toml").read_text(encoding="utf-8")
    (folder / "library.toml").write_text(f'{card}"{name}" = "{digest}"\n', encoding="utf-8")
    with pytest.raises(DataError, match="missing"):
        open_library(folder)


def test_a_link_that_leaves_the_folder_is_refused(folder):
    moved = folder.parent / "elsewhere.onnx"
    (folder / "supernet.onnx").rename(moved)
    (folder / "supernet.onnx").symlink_to(moved)
    with pytest.raises(DataError, match="missing"):
        open_library(folder)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"", b"files = 3", b"files = []"])
def test_a_card_that_cannot_be_read_is_refused(folder, content):
    (folder / "library.toml").write_bytes(content)
    with pytest.raises(DataError):
        open_library(folder)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('kind = "cls"\nclasses', 'kind = "seg"\nclasses'),
        ('without_images = "stored"', 'without_images = "frozen"'),
        ('without_images = "stored"', 'without_images = "reestimated"'),
        ("[normalization]", "[other]"),
        ("[input]", "[output]"),
        ("sizes = [32, 16]", "sizes = [32, 16, 8]"),  # nothing was measured there
        ("sizes = [32, 16]", "sizes = [16]"),  # the size is not the largest
        ("sizes = [32, 16]", "sizes = []"),
        ("sizes = [32, 16]", "sizes = 32"),
        ('name = "toy-cls"', 'other = "toy-cls"'),
    ],
)
def test_a_card_with_other_values_is_refused(folder, old, new):
    change_card(folder, old, new)
    with pytest.raises(DataError):
        open_library(folder)


@pytest.mark.parametrize(
    "change", ["fewer classes", "fewer modules", "no full width", "curves", "no curves"]
)
def test_importance_of_another_shape_is_refused(folder, change):
    values = load_file(folder / "values.safetensors")
    array = values["importance.full"]
    if change == "fewer classes":
        values["importance.full"] = np.ascontiguousarray(array[1:])
    elif change == "fewer modules":
        values["importance.full"] = np.ascontiguousarray(array[:, 1:])
    elif change == "curves":
        values["curves.16"] = np.ascontiguousarray(values["curves.16"][:, 1:])
    elif change == "no curves":
        del values["curves.16"]
    else:
        del values["importance.full"]
    save_file(values, folder / "values.safetensors")
    sign(folder, "values.safetensors")
    with pytest.raises(DataError, match=r"importance|curves"):
        open_library(folder)


def fewer_blocks(arrays: dict[str, np.ndarray]) -> None:
    arrays["16|counts"] = arrays["16|counts"][:, 1:]


def fewer_plans(arrays: dict[str, np.ndarray]) -> None:
    arrays["32|counts"] = arrays["32|counts"][1:]


def fewer_channels(arrays: dict[str, np.ndarray]) -> None:
    name = next(key for key in arrays if key.endswith("|mean"))
    arrays[name] = arrays[name][:, 1:]


def no_deviation(arrays: dict[str, np.ndarray]) -> None:
    del arrays[next(key for key in arrays if key.endswith("|std"))]


def no_counts(arrays: dict[str, np.ndarray]) -> None:
    del arrays["16|counts"]


@pytest.mark.parametrize(
    "change", [fewer_blocks, fewer_plans, fewer_channels, no_deviation, no_counts]
)
def test_statistics_of_another_shape_are_refused(folder, change: Callable):
    with np.load(folder / "statistics.npz") as file:
        arrays = {key: file[key] for key in file.files}
    change(arrays)
    np.savez(folder / "statistics.npz", allow_pickle=False, **arrays)
    sign(folder, "statistics.npz")
    with pytest.raises(DataError, match=r"statistics|counts"):
        open_library(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda sizes: sizes.pop("16"),
        lambda sizes: sizes["16"].pop("fit"),
        lambda sizes: sizes["16"]["per_class"].pop(),
        lambda sizes: sizes["32"]["fit"]["coefficients"].pop(),
    ],
)
def test_an_accuracy_that_does_not_fit_is_refused(folder, change: Callable):
    table = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))
    change(table)
    (folder / "accuracy.json").write_text(json.dumps(table), encoding="utf-8")
    sign(folder, "accuracy.json")
    with pytest.raises(DataError, match=r"accuracy\.json|no valid module library"):
        open_library(folder)


def test_an_accuracy_of_an_older_version_is_refused_with_what_to_do(folder):
    table = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))
    table["16"]["fit"]["spread"] = [0.1, 0.2]
    (folder / "accuracy.json").write_text(json.dumps(table), encoding="utf-8")
    sign(folder, "accuracy.json")
    with pytest.raises(DataError, match="older nnfactory") as caught:
        open_library(folder)
    assert any("modules publish" in hint for hint in caught.value.hints)


def test_statistics_with_objects_are_refused_and_not_executed(folder):
    np.savez(folder / "statistics.npz", counts=np.array([{}], object))
    sign(folder, "statistics.npz")
    with pytest.raises(DataError):
        open_library(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda slots: slots[0].pop("owns"),
        lambda slots: slots[0].update(owns=[[["t", 0, 0]]]),
        lambda slots: slots[0].update(mparams="many"),
        lambda slots: slots[0].update(min_groups=None),
        lambda slots: slots.pop(),  # the classes
        lambda slots: slots.append(3),
    ],
)
def test_a_malformed_table_of_modules_is_refused(folder, change: Callable):
    table = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    change(table["slots"])
    (folder / "modules.json").write_text(json.dumps(table), encoding="utf-8")
    sign(folder, "modules.json")
    with pytest.raises(DataError):
        open_library(folder)


def test_a_slot_survives_the_table(toy_library):
    for slot in toy_library.slots:
        assert slot_from_table(json.loads(json.dumps(table_from_slot(slot)))) == slot


def test_an_unknown_library_brings_the_nearest_one(toy_cls, shelf):
    shipped, _ = shelf
    shutil.copytree(toy_cls.folder, shipped / "toy-cls")
    with pytest.raises(UnknownNameError, match="No module library named 'toy-cs'") as caught:
        open_library("toy-cs")
    assert "Did you mean 'toy-cls'?" in str(caught.value)
    assert "modules list" in caught.value.hints[-1]


def test_a_folder_that_is_no_library_is_unknown(tmp_path):
    with pytest.raises(UnknownNameError):
        open_library(tmp_path)


def test_libraries_are_found_by_name_and_those_of_the_user_hide_shipped_ones(toy_cls, shelf):
    shipped, own = shelf
    assert library_folders() == {}
    shutil.copytree(toy_cls.folder, shipped / "a")
    shutil.copytree(toy_cls.folder, shipped / "b")
    shutil.copytree(toy_cls.folder, own / "b")
    (own / "no-library").mkdir()
    assert library_folders() == {"a": shipped / "a", "b": own / "b"}
    assert open_library("b").folder == (own / "b").resolve()


def test_the_default_library_is_the_first_of_its_kind(toy_cls, toy_det, shelf):
    shipped, own = shelf
    with pytest.raises(UnknownNameError, match="No module library for 'det'") as caught:
        default_library("det")
    assert "modules train" in caught.value.hints[-1]
    shutil.copytree(toy_cls.folder, shipped / "toy-cls")
    shutil.copytree(toy_det.folder, own / "toy-det")
    assert default_library("cls").kind == "cls"
    assert default_library("det").folder == (own / "toy-det").resolve()


def test_every_shipped_library_opens():
    for name, path in library_folders().items():
        if path.parent == store.SHIPPED:
            library = open_library(name)
            assert library.name == name
            assert library.card["data"]["license"]
            assert library.card["weights"]["license"]
