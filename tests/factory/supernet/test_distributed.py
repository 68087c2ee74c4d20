"""Two processes train one supernet: the same weights everywhere, one set of files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytest.importorskip("torch")

from nnfactory.factory.supernet.recipe import table_from_recipe  # noqa: E402

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from safetensors.torch import save_file
from nnfactory.factory.datasets import DataSet, Images
from nnfactory.factory.supernet.recipe import recipe_from_table
from nnfactory.factory.supernet.train import train
import os

folder = Path(sys.argv[1])
recipe = recipe_from_table(json.loads((folder / "recipe.json").read_text()))
rng = np.random.default_rng(0)
images = Images(
    pixels=rng.integers(0, 256, (32, 32, 32, 3), dtype=np.uint8),
    labels=np.arange(32) % recipe.architecture.classes, boxes=(),
)
data = DataSet(classes=("c",) * recipe.architecture.classes, wordnet=(), train=images,
               validation=images, test=images)
network = train(recipe, data, folder / "run", resume="resume" in sys.argv)
save_file(
    {n: v.contiguous() for n, v in network.named_parameters()},
    folder / f"rank{os.environ['RANK']}.safetensors",
)
"""


def test_two_processes_end_with_the_same_weights_and_one_checkpoint(
    toy_parts, launch, tmp_path: Path
):
    recipe = toy_parts.recipe("cls")
    (tmp_path / "recipe.json").write_text(json.dumps(table_from_recipe(recipe)))
    launch(PROGRAM, tmp_path)
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert files == ["checkpoint.safetensors", "log.jsonl", "recipe.json"]
    launch(PROGRAM, tmp_path, "resume")  # nothing is left to do, and both know
    again = load_file(tmp_path / "rank1.safetensors")
    assert all((again[name] == value).all() for name, value in first.items())
