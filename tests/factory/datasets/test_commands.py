"""``modules check`` and ``modules new``, and training and publishing with what they write."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from nnfactory import api
from nnfactory.factory.datasets import DataSet
from nnfactory.factory.errors import DataError, SpecError

pytestmark = pytest.mark.usefixtures("folder")
Run = Callable[..., Result]


@pytest.fixture
def data(raw, folder: Path) -> Path:
    """Forty sound images in Pascal VOC."""
    return raw.det["voc"](folder / "parts", raw.pictures(40))


@pytest.fixture
def broken(raw, folder: Path) -> Path:
    """The same in COCO, with a broken image, seven empty boxes, a clipped one and a lone image."""
    shown = raw.pictures(40)
    shown[0].content = b"no image"
    for item in shown[1:8]:
        item.boxes.append((0, 5, 5, 5, 9))
    shown[8].boxes.append((0, -0.5, 5, 12, 19))
    raw.write(folder / "bad" / "lone.png", raw.picture(99).content)
    return raw.det["coco"](folder / "bad", shown)


# check


def test_check_prints_what_can_be_used_and_how_it_is_split(run: Run, data: Path):
    finished = run("modules", "check", "parts")
    assert finished.exit_code == 0, finished.output
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    assert lines[0] == "parts: voc, det, 40 images that can be used, 3 classes"
    assert "70/15/15 by the hash" in lines[1]
    assert "corners are counted from 1" in lines[2]
    assert not [line for line in lines if line.startswith("error")]
    assert re.search(r"^boxes of +train +validation +test$", finished.stdout, re.M)
    images = re.search(r"^images +(\d+) +(\d+) +(\d+)$", finished.stdout, re.M)
    assert sum(map(int, images.groups())) == 40


def test_check_of_data_with_errors_lists_them_and_exits_with_9(run: Run, broken: Path):
    finished = run("modules", "check", "bad")
    assert finished.exit_code == 9
    out = finished.stdout
    assert "error: 1 broken-image" in out
    assert "error: 7 empty-box" in out
    assert out.count("pixels\n") == 5
    assert "and 2 more; --all shows them" in out
    assert "warning: 1 clipped-box" in out
    assert "warning: 1 no-annotation\n  lone.png" in out
    assert out.index("empty-box") < out.index("clipped-box")
    assert "error[NF9]: bad has 8 errors" in finished.stderr
    assert "--skip-broken" in finished.stderr
    assert "more" not in run("modules", "check", "bad", "--all").stdout


def test_check_as_json_is_one_line_with_every_problem(run: Run, broken: Path, data: Path):
    finished = run("modules", "check", "bad", "--json")
    assert finished.exit_code == 9
    table = json.loads(finished.stdout)["error"]
    assert table["code"] == 9
    assert sum(found["severity"] == "error" for found in table["problems"]) == 8
    assert {"code", "severity", "scope", "file", "message"} == set(table["problems"][0])
    finished = run("modules", "check", "parts", "--json")
    assert finished.exit_code == 0
    table = json.loads(finished.stdout)
    assert (table["format"], table["task"]) == ("voc", "det")
    assert sum(table["images"].values()) == 40
    assert set(table["examples"]) == {"train", "validation", "test"}
    assert table["split"].startswith("hash ")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nowhere"], 9, "--data DIR"),
        (["."], 9, "JPEGImages/"),
        (["parts", "--task", "cls"], 2, "its task is 'det'"),
        (["parts", "--format", "coco"], 9, "no COCO annotation file"),
        (["parts", "--format", "png"], 2, "imagefolder"),
    ],
)
def test_check_of_something_else_says_what_is_right(run: Run, data: Path, words, code, text):
    finished = run("modules", "check", *words)
    assert finished.exit_code == code
    assert text in finished.stderr
    assert finished.stdout == ""


# new


def test_new_writes_a_recipe_for_detection(run: Run, data: Path):
    from nnfactory.factory.supernet.recipe import load_recipe

    finished = run("modules", "new", "mine", "--data", "parts", "--license", "CC0", "--epochs", 7)
    assert finished.exit_code == 0, finished.output
    assert finished.stdout.splitlines()[-1] == "mine.toml"
    assert "next: nnfactory modules train mine.toml --data parts" in finished.stderr
    recipe, shape = load_recipe("mine.toml"), load_recipe("fod31").architecture
    assert (recipe.name, recipe.weights_license) == ("mine", "CC0")
    assert recipe.training.epochs == 7
    assert recipe.training.batch * 4 <= 40
    assert recipe.architecture.classes == 3
    assert recipe.architecture.stages == shape.stages
    assert recipe.architecture.input_sizes == (256, 192, 128)
    assert recipe.data["classes"] == ["bolt", "nut", "washer"]
    assert {key: recipe.data[key] for key in ("folder", "format", "origin", "license")} == {
        "folder": "parts", "format": "voc", "origin": "not stated", "license": "not stated",
    }  # fmt: skip
    assert recipe.data["split"].startswith("hash ")
    assert recipe.teacher is None


@pytest.mark.parametrize(
    ("imgsz", "stride", "sizes"),
    [(None, 1, (32, 24, 16)), (48, 1, (48, 32, 24)), (64, 2, (64, 48, 32)),
     (96, 2, (96, 64, 48)), (128, 4, (128, 96, 64))],
)  # fmt: skip
def test_new_for_classification_fits_the_stem_to_the_images(
    run: Run, raw, folder: Path, imgsz, stride, sizes
):
    from nnfactory.factory.supernet.recipe import load_recipe

    raw.cls["imagefolder"](folder / "photos", raw.pictures(40))
    size = ["--imgsz", imgsz] if imgsz else []
    finished = run("modules", "new", "pets", "--data", "photos", "-o", "r/pets.toml", *size)
    assert finished.exit_code == 0, finished.output
    assert "no --license" in finished.stderr
    recipe = load_recipe("r/pets.toml")
    assert recipe.architecture.kind == "cls"
    assert recipe.architecture.stem_stride == stride
    assert recipe.architecture.input_sizes == sizes
    assert recipe.weights_license == "not stated"


def test_every_input_size_that_is_allowed_makes_a_valid_architecture():
    from nnfactory.factory.own_recipe import SHAPES, _resized
    from nnfactory.factory.supernet.recipe import load_recipe

    for kind, name in SHAPES.items():
        shape, made = load_recipe(name).architecture, 0
        for size in range(1, 1025):
            try:
                made += _resized(shape, size).input_size == size
            except SpecError as error:
                near = int(error.hints[0].split()[1])
                assert _resized(shape, near).input_size == near
        assert made > 20, kind


def test_a_recipe_is_read_back_as_it_was_made(raw, folder: Path):
    from nnfactory.factory.datasets import take_inventory
    from nnfactory.factory.own_recipe import RecipeRequest, recipe_from_inventory, recipe_text
    from nnfactory.factory.supernet.recipe import load_recipe

    names = ('nut "A"', "größe, 2", "back\\slash")
    raw.det["yolo"](folder / "odd", raw.pictures(30), names)
    inventory = take_inventory(folder / "odd")
    made = recipe_from_inventory(inventory, RecipeRequest(name="odd", title='Odd "names"'))
    Path("odd.toml").write_text(recipe_text(made), encoding="utf-8")
    assert load_recipe("odd.toml") == made
    assert made.data["classes"] == list(names)


def test_new_counts_epochs_so_that_small_sets_are_seen_often(raw, folder: Path):
    from nnfactory.factory.datasets import take_inventory
    from nnfactory.factory.own_recipe import RecipeRequest, recipe_from_inventory

    few = take_inventory(raw.cls["imagefolder"](folder / "few", raw.pictures(30)))
    many = replace(few, parts={**few.parts, "train": few.parts["train"] * 200})
    steps = []
    for inventory in (few, many):
        made = recipe_from_inventory(inventory, RecipeRequest(name="own")).training
        steps.append(made.epochs * (len(inventory.parts["train"]) // made.batch))
        assert made.epochs <= 300
    assert steps[0] < 2000  # 300 times the few images
    assert steps[1] == pytest.approx(9000, rel=0.02)


def test_new_with_errors_writes_the_recipe_and_says_how_to_go_on(run: Run, broken: Path):
    finished = run("modules", "new", "mine", "--data", "bad", "--json")
    assert finished.exit_code == 0
    assert json.loads(finished.stdout)["recipe"] == "mine.toml"
    assert "correct the files" in finished.stderr
    assert "train mine.toml --data bad --skip-broken" in finished.stderr


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["mi ne"], 2, "letters, digits"),
        (["mine", "--imgsz", "250"], 2, "multiple of 32 pixels in 64..1024"),
        (["mine", "--imgsz", "2048"], 2, "--imgsz 1024"),
        (["mine", "--epochs", "0"], 2, "--epochs"),
        (["mine", "-o", "mine.txt"], 2, "mine.txt.toml"),
        (["mine", "-o", "there.toml"], 2, "--overwrite"),
    ],
)
def test_new_refuses_what_cannot_be(run: Run, data: Path, words, code, text):
    Path("there.toml").write_text("kept")
    finished = run("modules", "new", *words, "--data", "parts")
    assert finished.exit_code == code
    assert text in finished.stderr
    assert Path("there.toml").read_text() == "kept"
    assert not Path("mine.toml").exists()


def test_new_replaces_a_recipe_when_it_is_told_to(run: Run, data: Path):
    Path("mine.toml").write_text("old")
    finished = run("modules", "new", "mine", "--data", "parts", "--overwrite")
    assert finished.exit_code == 0
    assert Path("mine.toml").read_text().startswith('name = "mine"')


def test_one_class_is_enough_to_detect_and_too_few_to_classify(run: Run, raw, folder: Path):
    shown = [raw.picture(i, boxes=[(0, 1, 1, 20, 20)]) for i in range(40)]
    raw.det["yolo"](folder / "det", shown, ("bolt",))
    assert run("modules", "new", "one", "--data", "det").exit_code == 0
    for item in shown:
        item.label = 0
    raw.cls["imagefolder"](folder / "cls", shown)
    finished = run("modules", "new", "two", "--data", "cls", "--format", "imagefolder")
    assert finished.exit_code == 9
    assert "needs two" in finished.stderr


# train and publish


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[DataSet]:
    """The data sets that training was given; it does not train."""
    pytest.importorskip("torch")
    given: list[DataSet] = []
    monkeypatch.setattr(
        "nnfactory.factory.supernet.train.train",
        lambda recipe, data, run_dir, **options: given.append(data),
    )
    return given


def test_train_reads_raw_files_as_the_recipe_says(run: Run, data: Path, trained):
    run("modules", "new", "mine", "--data", "parts", "--imgsz", 64)
    for place in ("parts", "."):  # the folder itself, or what holds it
        finished = run("modules", "train", "mine.toml", "--data", place)
        assert finished.exit_code == 0, finished.output
    for got in trained:
        assert got.classes == ("bolt", "nut", "washer")
        assert got.train.pixels.shape[1:] == (64, 64, 3)
        assert len(got.validation) > 0
        assert len(got.test) == 0
    assert not Path("runs/mine/left_out.txt").exists()


def test_train_refuses_errors_and_lists_what_it_leaves_out(run: Run, broken: Path, trained):
    run("modules", "new", "mine", "--data", "bad")
    finished = run("modules", "train", "mine.toml", "--data", "bad")
    assert finished.exit_code == 9
    assert "--skip-broken leaves 1 image and 7 boxes out" in finished.stderr
    assert not trained
    finished = run("modules", "train", "mine.toml", "--data", "bad", "--skip-broken")
    assert finished.exit_code == 0, finished.output
    assert "1 image and 7 boxes left out" in finished.stderr
    assert "publish runs/mine --data bad --skip-broken" in finished.stderr
    lines = Path("runs/mine/left_out.txt").read_text().splitlines()
    assert len(lines) == 8
    assert all(len(line.split("\t")) == 3 for line in lines)


def test_training_starts_from_the_library_of_the_option_else_of_the_recipe(
    run: Run, data: Path, toy_det, monkeypatch
):
    pytest.importorskip("torch")
    started: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        "nnfactory.factory.supernet.train.train",
        lambda recipe, data, run_dir, *, init, **options: started.append((recipe.init, bool(init))),
    )
    run("modules", "new", "mine", "--data", "parts")
    words = ("modules", "train", "mine.toml", "--data", "parts")
    named = (f"{toy_det.name} {toy_det.id}", True)
    assert run(*words).exit_code == 0
    assert run(*words, "--init", toy_det.folder).exit_code == 0
    text = Path("mine.toml").read_text()
    Path("mine.toml").write_text(f'init = "{toy_det.folder}"\n{text}')
    assert run(*words).exit_code == 0
    assert run(*words, "--resume").exit_code == 0
    assert started == [("", False), named, named, (str(toy_det.folder), False)]


def test_publish_gets_all_splits_of_raw_files(run: Run, data: Path, trained, monkeypatch):
    from nnfactory.factory.supernet import checkpoint, recipe

    published: list[DataSet] = []
    monkeypatch.setattr(
        "nnfactory.factory.supernet.publish.publish",
        lambda recipe, network, data, folder, **options: published.append(data),
    )
    done = checkpoint.Progress(step=1, seconds=1.0, recipe={})
    monkeypatch.setattr(checkpoint, "load_checkpoint", lambda path, network: done)
    monkeypatch.setattr("nnfactory.api.libraries._write_page", lambda run_dir, folder: None)
    run("modules", "new", "mine", "--data", "parts", "--imgsz", 64)
    table = recipe.table_from_recipe(recipe.load_recipe("mine.toml"))
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/recipe.json").write_text(json.dumps(table))
    finished = run("modules", "publish", "runs/mine", "--data", "parts")
    assert finished.exit_code == 0, finished.output
    (got,) = published
    assert len(got.train) + len(got.validation) + len(got.test) == 40


def test_a_recipe_whose_class_list_was_shortened_by_half_says_what_else_to_change(
    run: Run, data: Path, trained
):
    run("modules", "new", "mine", "--data", "parts")
    text = Path("mine.toml").read_text()
    Path("mine.toml").write_text(text.replace('["bolt", "nut", "washer"]', '["bolt", "nut"]'))
    finished = run("modules", "train", "mine.toml", "--data", "parts")
    assert finished.exit_code == 9
    assert "set classes = 2 in [architecture]" in finished.stderr


def test_the_functions_of_the_api_give_the_same(data: Path):
    view = api.check_data(Path("parts"))
    assert api.new_recipe("mine", data_dir=Path("parts")) == view
    assert view.errors == ()
    with pytest.raises(DataError):
        api.check_data(Path("nowhere"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cls", "det"])
def test_a_supernet_is_trained_on_raw_files(run: Run, raw, folder: Path, kind: str):
    pytest.importorskip("torch")
    write = raw.det["coco"] if kind == "det" else raw.cls["imagefolder"]
    write(folder / "own", raw.pictures(40))
    size = ("--imgsz", 64) if kind == "det" else ()
    assert run("modules", "new", "own", "--data", "own", "--epochs", 1, *size).exit_code == 0
    finished = run("modules", "train", "own.toml", "--data", "own")
    assert finished.exit_code == 0, finished.output
    assert Path("runs/own/checkpoint.safetensors").is_file()
