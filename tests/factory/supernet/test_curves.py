"""The picture of a training run: what it shows, and which logs are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nnfactory.factory.errors import DataError, MissingExtraError
from nnfactory.factory.supernet.curves import draw_curves

ROWS = [
    {"step": 10, "seconds": 60, "loss": 8.1, "full": 0.11, "half": 0.07},
    {"step": 20, "seconds": 3600, "loss": 7.0, "full": 0.35, "half": 0.2},
    {"step": 30, "seconds": 9000, "loss": 6.5, "full": 0.3, "half": 0.25},
]


def write_log(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch):
    """The function ``drawn(rows)`` that draws a log and gives the axes of the figure."""
    figure_module = pytest.importorskip("matplotlib.figure")
    figures = []

    class Kept(figure_module.Figure):
        def savefig(self, *arguments, **options):
            figures.append(self)
            super().savefig(*arguments, **options)

    monkeypatch.setattr(figure_module, "Figure", Kept)

    def draw(rows: list[dict]):
        draw_curves(write_log(tmp_path / "log.jsonl", rows), tmp_path / "curves.png", metric="AP50")
        return figures[-1].axes

    return draw


def curves(axes) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): [tuple(point) for point in line.get_xydata()] for line in axes.lines
    }


def test_metrics_and_loss_are_drawn_over_the_steps_with_their_last_values(drawn):
    above, below = drawn(ROWS)
    assert curves(above) == {
        "full network: 0.300": [(10, 0.11), (20, 0.35), (30, 0.3)],
        "half width: 0.250": [(10, 0.07), (20, 0.2), (30, 0.25)],
    }
    assert list(curves(below).values()) == [[(10, 8.1), (20, 7.0), (30, 6.5)]]
    assert above.get_ylabel() == "validation AP50"
    assert below.get_ylabel() == "training loss"
    assert below.get_xlabel() == "training step (30 in 2.50 hours)"
    assert above.get_ylim()[0] == 0
    legend = [text.get_text() for text in above.get_legend().get_texts()]
    assert legend == list(curves(above))


def test_every_other_number_is_a_metric_and_may_be_missing_in_some_rows(drawn):
    rows = [ROWS[0], ROWS[1] | {"full_128": 0.28, "note": "resumed", "done": False}, ROWS[2]]
    above, _ = drawn(rows)
    assert curves(above)["full 128: 0.280"] == [(20, 0.28)]
    assert len(above.lines) == 3


def test_more_metrics_than_colors_are_told_apart(drawn):
    rows = [row | {f"metric_{i}": 0.1 * i for i in range(9)} for row in ROWS]
    looks = {
        (line.get_color(), line.get_marker(), line.get_linestyle()) for line in drawn(rows)[0].lines
    }
    assert len(looks) == 11


def test_one_row_is_enough_and_so_is_the_loss_alone(drawn):
    above, below = drawn(ROWS[:1])
    assert curves(above)["full network: 0.110"] == [(10, 0.11)]
    assert below.get_xlim() == (0, 10.2)
    (only,) = drawn([{"step": 5, "loss": 1.5}, {"step": 6, "loss": float("nan")}])
    assert only.get_ylabel() == "training loss"
    assert only.get_xlabel() == "training step"


def test_rows_that_a_resumed_run_repeats_replace_the_earlier_ones(drawn):
    again = ROWS[1] | {"loss": 6.9}
    _, below = drawn([*ROWS, again])
    assert list(curves(below).values()) == [[(10, 8.1), (20, 6.9)]]


def test_the_picture_is_a_png_that_is_legible_at_800_pixels_and_always_the_same(tmp_path: Path):
    pytest.importorskip("matplotlib")
    log = write_log(tmp_path / "log.jsonl", ROWS)
    for name in ("one.png", "two.png"):
        draw_curves(log, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.format == "PNG"
        assert picture.width >= 800
        gray = picture.convert("L").resize((800, 500))
    assert gray.getextrema()[0] < 100  # ink
    assert gray.getpixel((0, 0)) == 255  # on white


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"step": 20, "seconds": 36', b"", b"[1, 2]", b"3", b"\xff\xfe", b'{"step": 20}',
        b'{"loss": 1.0}', b'{"step": "20", "loss": 1.0}', b'{"step": -1, "loss": 1.0}',
        b'{"step": NaN, "loss": 1.0}', b'{"step": 1, "loss": 1' + b"0" * 400 + b"}",
    ],
)  # fmt: skip
def test_a_damaged_line_is_named_and_nothing_is_written(damaged, tmp_path: Path):
    pytest.importorskip("matplotlib")
    log, target = tmp_path / "log.jsonl", tmp_path / "curves.png"
    log.write_bytes(json.dumps(ROWS[0]).encode() + b"\n" + damaged + b"\n")
    with pytest.raises(DataError, match=r"^Line 2 of .*log\.jsonl is damaged"):
        draw_curves(log, target)
    assert not target.exists()


def test_a_missing_or_an_empty_log_is_refused(tmp_path: Path):
    pytest.importorskip("matplotlib")
    with pytest.raises(DataError, match="cannot be read"):
        draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    (tmp_path / "log.jsonl").touch()
    with pytest.raises(DataError, match="is empty"):
        draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    log = write_log(tmp_path / "log.jsonl", ROWS)
    with pytest.raises(MissingExtraError, match="'train'") as caught:
        draw_curves(log, tmp_path / "curves.png")
    assert caught.value.hints == ('pip install "nnfactory[train]"',)


def test_the_module_loads_without_matplotlib_and_draws_without_pyplot(tmp_path: Path):
    pytest.importorskip("matplotlib")
    log = write_log(tmp_path / "log.jsonl", ROWS)
    code = (
        "import sys; from pathlib import Path; "
        "from nnfactory.factory.supernet.curves import draw_curves; "
        "assert not {'matplotlib', 'torch'} & set(sys.modules); "
        "draw_curves(Path(sys.argv[1]), Path(sys.argv[1] + '.png')); "
        "assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(log)], check=True, timeout=60)
