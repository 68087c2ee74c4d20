"""The figures of the README and the documentation are those of the result files."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "figures.py"


def test_pages_have_the_figures_of_the_result_files():
    finished = subprocess.run([sys.executable, SCRIPT, "--check"], check=False)
    assert finished.returncode == 0, "run python benchmarks/figures.py"


def test_there_are_figures():
    readme = SCRIPT.parents[1] / "README.md"
    block = readme.read_text(encoding="utf-8").split("<!-- figures")[1].split("<!-- /figures")[0]
    for name in ("fod31", "tiny200", "plan + link", "Jetson"):
        assert name in block
