"""Networks of others end to end: imported, compared on images, taken apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from nnfactory import api
from nnfactory.factory.errors import DataError, UnknownNameError, UsageError

NAMES = ("resnet8", "resnet20")
pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


@pytest.fixture
def imported(imported_resnets: tuple[str, ...], folder: Path) -> Path:
    """Two imported networks; the folder of images of three classes."""
    rng = np.random.default_rng(0)
    for label in ("a", "b", "c"):
        place = folder / "photos" / label
        place.mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return folder / "photos"


def test_similarity_is_that_of_every_place_with_every_other(imported: Path):
    found = api.similarity(NAMES, imported)
    assert found.networks == NAMES
    assert found.images == 18
    count = sum(map(len, found.places))
    table = np.array(found.values)
    assert table.shape == (count, count)
    np.testing.assert_allclose(np.diag(table), 1, atol=1e-3)
    first = len(found.places[0])
    assert table[0, first] == pytest.approx(1, abs=1e-3)  # the image is the same for both


def test_a_second_look_at_the_same_images_comes_from_the_cache(
    imported: Path, monkeypatch: pytest.MonkeyPatch
):
    from nnfactory.factory.reuse import features

    once = api.similarity(NAMES, imported)

    def never(*arguments: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(features, "representations", never)
    assert api.similarity(NAMES, imported) == once
    with pytest.raises(AssertionError, match="computed again"):
        api.similarity(NAMES, imported, images=12)


def test_partition_divides_every_network(imported: Path):
    found = api.partition(NAMES, imported, blocks=3)
    assert len(found.anchors) == 3
    assert set(found.anchors) <= set(NAMES)
    for borders, shares in zip(found.borders, found.shares, strict=True):
        assert len(borders) == 4
        assert borders[0] == "images"
        assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert 0 < found.objective <= 12


def test_the_commands_say_the_same(imported: Path, run: Run, folder: Path):
    words = [",".join(NAMES), "--data", str(imported)]
    finished = run("modules", "partition", *words, "--blocks", "3", "--json")
    assert finished.exit_code == 0, finished.output
    assert json.loads(finished.stdout)["anchors"] == list(
        api.partition(NAMES, imported, blocks=3).anchors
    )
    assert "anchor" in run("modules", "partition", *words, "--blocks", "3").stdout
    pytest.importorskip("matplotlib")
    drawn = run("modules", "similarity", *words, "--plot", "map.png")
    assert drawn.exit_code == 0, drawn.output
    assert (folder / "map.png").read_bytes().startswith(b"\x89PNG")
    assert run("modules", "similarity", *words, "--plot", "map.txt").exit_code == 2


def test_a_damaged_network_is_a_row_of_the_list(imported: Path, run: Run):
    views = api.imported()
    assert {name: round(view.mparams, 3) for name, view in views.items()} == {
        "resnet20": 0.269, "resnet8": 0.078,
    }  # fmt: skip
    (Path(views["resnet8"].folder) / "donor.toml").write_text("[")
    listed = run("modules", "list")
    assert listed.exit_code == 0
    rows = [line for line in listed.stdout.splitlines() if line.startswith("resnet")]
    assert "0.269" in rows[0]
    assert "damaged" in rows[1]
    cards = json.loads(run("modules", "list", "--json").stdout)
    assert "no valid imported network" in cards[-1]["error"]


def test_what_cannot_be_compared_is_refused(imported: Path):
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet20'"):
        api.similarity(("resnet20", "resnet2"), imported)
    with pytest.raises(UsageError, match="once"):
        api.similarity(("resnet8", "resnet8"), imported)
    with pytest.raises(DataError, match="cannot be divided into 9 blocks"):
        api.partition(NAMES, imported, blocks=9)


def test_labels_are_asked_for(imported: Path, folder: Path):
    (folder / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="holds no names"):
        api.import_network(
            Path("resnet8.onnx"), name="other", labels=folder / "empty.txt", mean=(0, 0, 0),
            std=(1, 1, 1),
        )  # fmt: skip


def test_a_card_says_what_options_would(imported: Path, run: Run, folder: Path):
    (folder / "card.toml").write_text(
        f"labels = {[f'class {i}' for i in range(10)]}\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n"
        'license = "MIT"\n'
    )
    words = ["modules", "import", "resnet8.onnx", "--card", "card.toml"]
    refused = run(*words)
    assert refused.exit_code == 2
    assert "Missing --name:" in refused.stderr
    finished = run(*words, "--name", "again", "--license", "CC0", "--json")
    assert finished.exit_code == 0, finished.stderr
    table = json.loads(finished.stdout)
    assert (table["name"], table["license"]) == ("again", "CC0")


def test_a_torch_module_is_imported(imported: Path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, 2, 1),
        torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2),
    )  # fmt: skip
    view = api.import_torch(
        module, name="mine", labels=("a", "b"), mean=(0, 0, 0), std=(1, 1, 1), input_size=32
    )
    assert view.input_size == 32
    assert view.mparams == pytest.approx(sum(p.numel() for p in module.parameters()) / 1e6)
    assert view.not_understood == {}
    assert api.partition(("mine", "resnet8"), imported, blocks=2).networks == ("mine", "resnet8")


def test_an_imported_network_is_a_library_like_any_other(
    imported: Path, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    from nnfactory.factory.library import store
    from nnfactory.factory.reuse import donor_library

    monkeypatch.setattr(store, "user_libraries", lambda: folder / "libraries")
    monkeypatch.setattr(donor_library, "PAIRS", 40)
    photos, strangers = folder / "more", folder / "strangers"
    rng = np.random.default_rng(0)
    for place in (photos / "class 1", photos / "class 4", photos / "class 7", strangers / "a",
                  strangers / "b"):  # fmt: skip
        place.mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    refused = run("modules", "publish", "resnet8", "--data", str(strangers))
    assert refused.exit_code == 9
    assert "has no class 'a'" in refused.stderr
    published = run("modules", "publish", "resnet8", "--data", str(photos))
    assert published.exit_code == 0, published.stderr
    words = ["--task", "cls", "--library", "resnet8", "--device", "jetson"]
    shown = run("plan", *words, "--json")
    assert shown.exit_code == 0, shown.stderr
    assert json.loads(shown.stdout)["points"]
    built = run("build", *words, "--sparsity", "0.5", "--out", "made", "--json")
    assert built.exit_code == 0, built.stderr
    made = json.loads(built.stdout)
    assert made["plan"]["sparsity"] >= 0.5
    assert made["estimate"]["mparams"] < 0.05  # of 0.077
    assert api.verify(Path("made"))
    assert run("modules", "show", "resnet8", "--device", "jetson").exit_code == 0
    unknown = run("modules", "publish", "resnet9", "--data", str(photos))
    assert unknown.exit_code == 2
    assert "Did you mean 'resnet8'" in unknown.stderr
