"""The tables of docs/disassembly.md, from the result files; ``figures.py`` writes them."""

from __future__ import annotations

from page_tables import Row, interval, points, section
from results_file import read_rows

WANDER = 1.05  # of a limit: what the machine's speed may change
WAYS = (
    "ours", "images alone", "channels alone", "contributions", "channels alone, unfitted",
    "magnitude", "fpgm", "random", "magnitude, fitted", "fpgm, fitted", "random, fitted",
    "uniform width, fitted",
)  # fmt: skip


def _components() -> str:
    """Accuracy of components within a share of the latency, way by way."""
    rows = read_rows("disassembly_components")
    text = (
        "## Within a share of the whole network's latency\n\n"
        "Points of accuracy on test images behind the whole network with its logits masked to the "
        "task, paired, with 95 % intervals (`disassembly_components.csv`). All of a row are cut by "
        "the exact choice to keep the same limit of the measured latency; measured again, some "
        "take less of it and some more, since the machine's speed wanders. "
        + _bars(rows)
        + " *Ours* is what `disassemble` does (not measured everywhere yet), at the input size "
        "and the share of the latency in parentheses; *images alone* the largest size that keeps "
        "the limit, nothing cut; *channels alone* what `--keep-size` does, as do all that follow; "
        "*unfitted* is without compensation, *fitted* with ours; *uniform width* keeps the same "
        "share of every family; *all* is the compression of a whole network; - was not measured, "
        "or keeps the latency in no size:"
    )
    cells = []
    for network, task in _keys(rows):
        mine = _of(rows, network, task)
        masked = next(row for row in mine if row["way"] == "masked")
        for limit in sorted({row["share"] for row in mine if row["share"]}, reverse=True):
            here = {row["way"]: row for row in mine if row["share"] == limit}
            cells.append([
                f"{network}, {task}, {float(limit):.0%}", f"{float(masked['accuracy']):.3f}",
                *(_behind(here.get(way), sized=way in WAYS[:2]) for way in WAYS),
            ])  # fmt: skip
    return section(text, ["network, task, share", "masked", *WAYS], cells)


def _bars(rows: list[dict[str, str]]) -> str:
    """How often what we ask of ourselves is reached, on three classes.

    A component that was over the limit when it was measured again does not count.
    """
    said = []
    for share, most in (("0.5", 0.01), ("0.25", 0.04)):
        mine = [
            row for row in rows
            if row["way"] == "ours" and row["share"] == share and row["task"] not in ("3-9", "all")
        ]  # fmt: skip
        reached = sum(
            float(row["behind"]) <= most + 1e-9 and float(row["latency"]) <= WANDER * float(share)
            for row in mine
        )
        said.append(f"{100 * most:.0f} at {float(share):.0%} ({reached} of {len(mine)} reach it)")
    return f"What we ask of ourselves on three classes is at most {' and '.join(said)}."


def _thresholds() -> str:
    """The paper's thresholds, and what else the tables must say."""
    rows = read_rows("disassembly_components")
    ways = ("base", "masked", "thresholds", "thresholds, fitted", "channels alone", "ours")
    text = (
        "## Thresholds, and what a component still knows\n\n"
        "*Thresholds* are those of the paper's code, with streams kept; what they leave out is "
        "small, and channel counts that the runtime does not like make the network slower. *Least "
        "class* is the accuracy on the worst class of the task. *Other task*: as many other "
        "classes, told apart by the whole network's rows on the component's features:"
    )
    cells = []
    for network, task in _keys(rows):
        mine = [row for row in _of(rows, network, task) if row["way"] in ways]
        mine.sort(key=lambda row: (ways.index(row["way"]), -float(row["share"] or 1)))
        cells += [
            [
                f"{network}, {task}", row["way"], f"{float(row['latency']):.2f}",
                f"{float(row['accuracy']):.3f}", f"{float(row['least_class']):.3f}",
                row["other_tasks"] and f"{float(row['other_tasks']):.3f}",
            ]
            for row in mine
        ]  # fmt: skip
    columns = ["network, task", "way", "latency", "accuracy", "least class", "other task"]
    return section(text, columns, cells)


def _latencies() -> str:
    """How well the table of latencies knows cut networks."""
    text = (
        "## What a cut network takes\n\n"
        "Random cut networks, some branches left out, measured as a whole and held against the "
        "table that channels are chosen by, a sum over layers, and against the same sum of "
        "multiply-adds, scaled in the same way: the root of the mean squared relative error in "
        "percent, with 95 % intervals (`cut_latency.csv`). Before a component is made its whole "
        "network is measured, whatever the table says:"
    )
    cells = [
        [
            row["network"], row["families"], row["measured"], row["seconds"], row["networks"],
            *(points(row, of, f"{of}_low", f"{of}_high") for of in ("layers", "multiply_adds")),
        ]
        for row in read_rows("cut_latency")
    ]  # fmt: skip
    columns = ["network", "families", "layers measured", "seconds", "cut networks", "sum of layers",
               "multiply-adds"]  # fmt: skip
    return section(text, columns, cells)


def _contributions() -> str:
    rows = read_rows("disassembly_contributions")
    lines = ["## Contributions", ""]
    lines += [
        f"- {row['network']}, {row['classes']} classes, {row['images']} images: {row['seconds']} s "
        f"and {row['peak_mib']} MiB on two cores (`disassembly_contributions.csv`)"
        for row in rows
    ]
    return "\n".join(lines) + "\n" if rows else ""


def _combinations() -> str:
    """Components joined."""
    text = (
        "## Components joined\n\n"
        "Accuracy on all classes of both, test images, with 95 % intervals; latency of one thread "
        "(`combination.csv`). *Alone* is the mean of each on its own classes, which is an easier "
        "task; *undivided* the better of the whole networks on the joint task, where both know it. "
        "*Padding* is one block-diagonal network, as the paper joins components. Pairs of two "
        "networks are whole ones with some of their rows; the halves of one network are cut:"
    )
    cells = [
        [
            row["pair"], row["way"],
            f"{float(row['accuracy']):.3f}" if row["way"] == "alone" else interval(row, "accuracy"),
            row["latency_ms"] and f"{float(row['latency_ms']):.2f}",
        ]
        for row in read_rows("combination")
    ]  # fmt: skip
    return section(text, ["pair", "way", "accuracy", "ms"], cells)


def _keys(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["network"], row["task"]) for row in rows))


def _of(rows: list[dict[str, str]], network: str, task: str) -> list[dict[str, str]]:
    return [row for row in rows if (row["network"], row["task"]) == (network, task)]


def _behind(row: Row | None, *, sized: bool = False) -> str:
    if row is None:
        return "-"
    where = f" ({row['side']} px, {float(row['latency']):.0%})" if sized else ""
    return points(row, "behind") + where


def _detectors() -> str:
    """Components of detectors."""
    text = (
        "## Components of detectors\n\n"
        "AP50 of *person* and *car* on the validation images of `coco256`, which are few, and "
        "points behind the whole network with other classes left out, paired, 95 % intervals "
        "(`detector_components.csv`). *Task* is what components are cut from: the rows of the two "
        "classes and one for all others. *Ours*, *magnitude* and so on as above, fitted:"
    )
    cells = [
        [
            row["network"], row["way"], row["side"], f"{float(row['latency']):.2f}",
            f"{float(row['ap50']):.3f}", "" if row["way"] == "masked" else _behind(row),
        ]
        for row in read_rows("detector_components")
        if "unfitted" not in row["way"] and row["way"] not in ("magnitude", "fpgm", "random")
    ]  # fmt: skip
    return section(text, ["network", "way", "px", "latency", "AP50", "behind"], cells)


def _teachers() -> str:
    """Components that were trained."""
    text = (
        "## Components that are taught\n\n"
        "Points behind the masked whole network, paired, with 95 % intervals, of the component at "
        "a quarter of the latency, where nothing else is said, after some passes over labelled "
        "images (`component_teachers.csv`). *Whole* is what `--finish` does; *component* is "
        "taught by the one at half of the latency; *fresh* has weights that were never trained:"
    )
    cells = [
        [
            f"{row['network']}, {row['task']}", row["start"], row["teacher"],
            f"{float(row['accuracy']):.3f}", _behind(row),
        ]
        for row in read_rows("component_teachers")
    ]  # fmt: skip
    return section(text, ["network, task", "start", "teacher", "accuracy", "behind"], cells)


def _judges() -> str:
    """What tells the best of several components."""
    rows = read_rows("component_judges")
    images = rows[0]["images"] if rows else ""
    text = (
        "## What tells the best component\n\n"
        "Components of every input size at the same latency, judged on a few hundred training "
        "images; points behind the masked whole network on other training images, at most "
        f"{images}, of what each rule takes (`component_judges.csv`). *Scaled* is our rule, the "
        "divergence after the scale of the logits that makes it smallest:"
    )
    cells = []
    for network, task in _keys(rows):
        mine = _of(rows, network, task)
        for limit in dict.fromkeys(row["share"] for row in mine):
            here = [row for row in mine if row["share"] == limit]
            taken = [
                min(here, key=lambda row: float(row["divergence"])),
                min(here, key=lambda row: float(row["scaled"])),
                max(here, key=lambda row: float(row["accuracy"])),
                min(here, key=lambda row: float(row["behind"])),
            ]
            cells.append([
                f"{network}, {task}, {float(limit):.0%}", str(len(here)),
                *(f"{100 * float(row['behind']):.1f} ({row['side']} px)" for row in taken),
            ])  # fmt: skip
    columns = ["network, task, share", "components", "nearest", "nearest, scaled",
               "most accurate", "best"]  # fmt: skip
    return section(text, columns, cells)


TABLES = (
    _components, _judges, _thresholds, _detectors, _teachers, _latencies, _contributions,
    _combinations,
)  # fmt: skip
