"""Disassembly end to end: a trained network in, a proven component out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from nnfactory import api
from nnfactory.factory.errors import BudgetError, DataError, UsageError
from nnfactory.factory.schema import Budget

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]
CLASSES = ("class 1", "class 4", "class 7")


@pytest.fixture
def photos(imported_resnets: tuple[str, ...], folder: Path) -> Path:
    """Two imported networks; images of three of their classes, which are no such things."""
    rng = np.random.default_rng(0)
    for channel, label in enumerate(CLASSES):
        place = folder / "photos" / label
        place.mkdir(parents=True)
        for number in range(24):
            pixels = rng.integers(0, 120, (40, 36, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            Image.fromarray(pixels).save(place / f"{number}.png")
    return folder / "photos"


def test_a_component_is_an_artifact_like_any_other(photos: Path, run: Run):
    made = api.disassemble(
        "resnet20", photos, classes=CLASSES, budget=Budget(mmacs=25), out_dir=Path("made")
    )
    result = made.result
    assert result.estimate.mmacs <= 25
    assert result.plan.task.classes == CLASSES
    assert sum(view.kept for view in made.families) < sum(view.channels for view in made.families)
    assert {name: len(kept) for name, kept in result.plan.active.items()} == {
        view.name: view.kept for view in made.families
    }
    assert result.certificate.bound >= result.certificate.objective - 1e-6
    assert all(parity.passed for parity in result.parity)
    assert [accuracy.subject for accuracy in result.accuracy] == ["artifact", "library"]
    assert [view.n for view in made.classes] == [6, 6, 6]
    assert 0 < result.plan.sparsity < 1
    assert api.verify(Path("made"))
    manifest = json.loads(Path("made/manifest.json").read_text())
    assert manifest["assembly"]["modules"][0]["id"] == "resnet20"
    assert "cut out of resnet20" in Path("made/README.md").read_text()
    answer = run("run", "made", str(photos / "class 4" / "0.png"), "--json")
    assert answer.exit_code == 0, answer.output


def test_a_share_of_the_latency_is_kept_when_measured(photos: Path, run: Run):
    words = ["disassemble", "resnet8", "--classes", ",".join(CLASSES), "--data", photos]
    done = run(*words, "--share", "0.8", "-o", "made", "--json")
    assert done.exit_code in (0, 6), done.output  # the machine may be too busy to say
    if done.exit_code == 0:
        table = json.loads(done.stdout)
        assert table["measurement"]["p50_ms"] <= 0.8 * table["whole_ms"] * 1.001
        assert table["values"] in ("contributions", "reconstruction", "both")


def test_on_a_board_the_latency_is_estimated(photos: Path):
    made = api.disassemble(
        "resnet20", photos, classes=CLASSES, device="jetson-orin-nano", share=0.7,
        out_dir=Path("made"),
    )  # fmt: skip
    assert made.result.measurement is None
    assert made.result.estimate.latency_ms.value <= 0.7 * made.whole_ms * 1.001


def test_people_see_classes_and_both_networks(photos: Path, run: Run):
    words = ["disassemble", "resnet8", "--classes", "class 1,class 7", "--data", photos]
    done = run(*words, "--macs", "8M", "-o", "made")
    assert done.exit_code == 0, done.output
    for text in ("2 classes of resnet8", "the whole network", "class 7", "inner channels", "proof"):
        assert text in done.output
    assert run("verify", "made").exit_code == 0


def test_a_file_must_be_explained(photos: Path, run: Run):
    words = ["disassemble", "resnet8.onnx", "--classes", "class 1,class 7", "--data", photos]
    done = run(*words, "--macs", "8M")
    assert done.exit_code == 2
    assert "--labels, --mean, --std" in done.output
    Path("labels.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    said = ["--labels", "labels.txt", "--mean", "0,0,0", "--std", "0.0039,0.0039,0.0039"]
    done = run(*words, "--macs", "8M", *said, "-o", "made", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["plan"]["library"] == "resnet8"


@pytest.mark.parametrize(
    ("classes", "asked", "error"),
    [
        (["class 1"], {"share": 0.5}, UsageError),
        (["class 1", "class 1"], {"share": 0.5}, UsageError),
        (CLASSES, {}, UsageError),
        (CLASSES, {"share": 1.5}, UsageError),
        (CLASSES, {"share": 0.5, "budget": Budget(latency_ms=1)}, UsageError),
        (CLASSES, {"budget": Budget(memory_mib=1)}, UsageError),
        (["class 1", "cat"], {"share": 0.5}, DataError),
        (CLASSES, {"budget": Budget(mmacs=0.001)}, BudgetError),
    ],
)  # fmt: skip
def test_requests_that_make_no_sense(photos: Path, classes, asked, error):
    with pytest.raises(error):
        api.disassemble("resnet8", photos, classes=classes, out_dir=Path("made"), **asked)
    assert not Path("made").exists()


def test_components_become_one_classifier_again(photos: Path, run: Run):
    classes = ("class 1", "class 4", "class 7", "class 0")
    (photos / "class 0").mkdir()
    for number in range(24):
        pixels = np.full((36, 36, 3), 10 * number, np.uint8)
        Image.fromarray(pixels).save(photos / "class 0" / f"{number}.png")
    for name, mine, network in (("a", classes[:2], "resnet20"), ("b", classes[2:], "resnet8")):
        api.disassemble(
            network, photos, classes=mine, budget=Budget(mparams=0.2), out_dir=Path(name)
        )
    done = run("combine", "a", "b", "--data", photos, "-o", "both", "--json")
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert tuple(table["plan"]["task"]["classes"]) == classes
    assert [view["classes"] for view in table["branches"]] == [list(classes[:2]), list(classes[2:])]
    assert table["parity"][0]["max_abs"] <= table["parity"][0]["tolerance"]
    assert table["accuracy"][0]["interval"]["n"] == 24
    assert api.verify(Path("both"))
    answer = run("run", "both", str(photos / "class 4" / "0.png"))
    assert answer.exit_code == 0, answer.output
    shown = run("combine", "a", "b", "--data", photos, "-o", "both")
    assert "in 2 branches" in shown.output
    for words, text in ((["a"], "two"), (["a", "a"], "in two of the classifiers")):
        refused = run("combine", *words, "--data", photos)
        assert refused.exit_code == 2, refused.output
        assert text in refused.output


def test_heads_of_one_network_share_everything_before_them(photos: Path):
    for name, mine in (("a", CLASSES[:2]), ("b", (CLASSES[2], "class 9"))):
        (photos / mine[1]).mkdir(exist_ok=True)
        for number in range(24 if name == "b" else 0):
            pixels = np.full((36, 36, 3), 10 * number, np.uint8)
            Image.fromarray(pixels).save(photos / mine[1] / f"{number}.png")
        api.disassemble(
            "resnet8", photos, classes=mine, budget=Budget(mparams=1), out_dir=Path(name)
        )
    made = api.combine([Path("a"), Path("b")], photos, out_dir=Path("both"))
    assert made.shared > 15
    assert made.result.estimate.mmacs < 13


def test_explain_says_what_decides_for_each_class(photos: Path, run: Run):
    found = api.explain("resnet20", photos)
    assert found.classes == CLASSES
    assert found.images == (9, 9, 9)
    assert len(found.families) == 9
    assert not any(family.name.startswith("1/") for family in found.families)
    for family in found.families:
        assert all(0 < sum(row) < 1.001 for row in family.flow)
        assert all(0 < count <= len(family.flow[0]) for count in family.carriers)
        assert 0 <= family.overlap <= 1.001
    assert found.families[0].overlap > found.families[-1].overlap
    words = ["modules", "explain", "resnet20", "--data", photos, "--classes", "class 1,class 4"]
    drawn = run(*words, "--plot", "routes.png")
    assert drawn.exit_code == 0, drawn.output
    assert "class 4" in drawn.output
    picture = np.asarray(Image.open("routes.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    table = json.loads(run(*words, "--json").stdout)
    assert table["classes"] == ["class 1", "class 4"]
    assert len(table["families"][0]["flow"]) == 2
    assert run(*words, "--plot", "routes.txt").exit_code == 2
