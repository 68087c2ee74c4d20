"""How long ``nnfactory reassemble`` takes on whole pools, and what memory it needs.

    python benchmarks/reassembly_search.py --data DIR [--pool NAME] [--images N]

Writes ``results/reassembly_search.csv``: the pools of ``reassembly.py`` are imported, and the
command is run as a process of its own, for half of the parameters of the largest network, on this
machine, which it measures. Once nothing is known yet; a second time what the networks make of the
images is, as after a run that was interrupted. Seconds are wall time; memory is the most that was
resident at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnx
from pretrained import pretrained
from reassembly import POOLS
from results_file import data_option, need_data, write_rows

from nnfactory import api
from nnfactory.factory.graph.costs import parameter_count
from nnfactory.factory.graph.network import model_from_network

SHARE = 0.5  # of the parameters of the largest network
PER_CLASS = 80
RUNS = ("from nothing", "features known")


@click.command()
@data_option
@click.option("--pool", "names", multiple=True, type=click.Choice(list(POOLS)))
@click.option("--images", default=256, show_default=True, help="As for the command.")
def main(data_dir: Path, names: tuple[str, ...], images: int) -> None:
    """Time whole searches."""
    need_data(data_dir)
    for name in names or POOLS:
        with TemporaryDirectory() as place:
            folder = Path(place)
            os.environ |= {
                "NNFACTORY_CACHE": str(folder / "cache"), "XDG_DATA_HOME": str(folder / "home")
            }  # fmt: skip
            pack, networks = POOLS[name]
            limit = SHARE * max(_import(data_dir, network, folder) for network in networks)
            _write_images(data_dir / pack / "train.npz", folder / "images")
            rows = [_searched(name, run, folder, limit, images) for run in RUNS]
        click.echo(write_rows("reassembly_search", rows, replace=("pool", "run")))


def _import(data_dir: Path, name: str, folder: Path) -> float:
    """Import a network; its millions of parameters."""
    one, path = pretrained(data_dir, name), folder / f"{name}.onnx"
    onnx.save(model_from_network(one.network), path)
    classes = next(iter(one.network.outputs.values()))[-1]
    api.import_network(
        path, name=name, labels=tuple(f"class {i}" for i in range(classes)), mean=one.mean,
        std=one.std, license=one.licence,
    )  # fmt: skip
    return parameter_count(one.network) / 1e6


def _write_images(pack: Path, folder: Path) -> None:
    """The first images of every class as files, a folder per class."""
    with np.load(pack) as content:
        jpeg, offset, labels = (content[key] for key in ("jpeg", "offset", "label"))
    for label in np.unique(labels):
        mine = folder / f"class {label}"
        mine.mkdir(parents=True)
        for number in np.flatnonzero(labels == label)[:PER_CLASS]:
            (mine / f"{number}.jpg").write_bytes(jpeg[offset[number] : offset[number + 1]])


def _searched(pool: str, run: str, folder: Path, limit: float, images: int) -> dict[str, object]:
    """Run the command; its time, memory and answer."""
    networks = POOLS[pool][1]
    words = [
        "reassemble", "--pool", ",".join(networks), "--data", str(folder / "images"),
        "--params", f"{limit:.3f}M", "--images", str(images), "--json",
        "--out", str(folder / run.replace(" ", "-")),
    ]  # fmt: skip
    began = time.perf_counter()
    with (folder / "answer.json").open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "nnfactory", *words], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status):
        answer = (folder / "answer.json").read_text()
        raise click.ClickException(f"The search in {pool} failed: {answer}")
    row = {
        "pool": pool, "run": run, "networks": len(networks), "limit_mparams": round(limit, 3),
        "images": images, "seconds": round(seconds, 1), "peak_mib": round(usage.ru_maxrss / 1024),
    }  # fmt: skip
    click.echo("  ".join(f"{key} {value}" for key, value in row.items()))
    return row


if __name__ == "__main__":
    main()
