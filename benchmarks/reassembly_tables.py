"""The tables of docs/reassembly.md, from the result files; ``figures.py`` writes them."""

from __future__ import annotations

from claims import mean_interval
from page_tables import Row, interval, points, section
from results_file import read_rows


def _partitions() -> str:
    """Ways of dividing networks into blocks."""
    text = (
        "## Dividing the networks\n\n"
        "Sum of the similarities of all blocks to their anchors, and the time of one thread "
        "(`reassembly_partition.csv`). Slack 0.2 is the paper's cap on the size of blocks:"
    )
    rows = read_rows("reassembly_partition")
    cells = []
    for key in dict.fromkeys((row["pool"], row["blocks"], row["slack"]) for row in rows):
        mine = {r["way"]: r for r in rows if (r["pool"], r["blocks"], r["slack"]) == key}
        found = [
            f"{float(mine[way]['objective']):.3f} in {float(mine[way]['seconds']):.2f} s"
            for way in ("joint", "turns", "swaps")
        ]
        cells.append([", ".join(key), *found])
    columns = ["pool, blocks, slack", "integer program (proven)", "turns, 20 starts",
               "swaps, 200 starts"]  # fmt: skip
    return section(text, columns, cells)


def _rankings() -> str:
    """What ranks networks before training as their accuracy after it does."""
    names = {
        "judged": "accuracy on other images", "left_out": "classifier left out",
        "value": "value of the search", "naswot": "NASWOT",
    }  # fmt: skip
    text = (
        "## Ranking without training\n\n"
        "Kendall's tau with the accuracy on test images after two passes of training, random mixed "
        "networks, 95 % intervals (`reassembly_ranking.csv`). What ranks is the first column: "
        "accuracy on training images that neither stitches nor classifier were fitted to. The "
        "second leaves images out of the classifier alone. Of the ImageNet pool networks of at "
        "most 700 million multiply-adds took part, so neither ResNet as a whole:"
    )
    rows = read_rows("reassembly_ranking")
    cells = []
    for pool in dict.fromkeys(row["pool"] for row in rows):
        mine = {row["score"]: row for row in rows if row["pool"] == pool}
        found = [f"{mine[n]['tau']} [{mine[n]['low']}, {mine[n]['high']}]" for n in names]
        cells.append([f"{pool}, {mine['naswot']['networks']} networks", *found])
    return section(text, ["pool", *names.values()], cells)


def _in_a_row() -> str:
    """What it gains to fit each stitch to what really comes out of everything before it."""
    rows = [row for row in read_rows("reassembly_candidates") if row["mixed"] == "1"]
    lines = ["## Stitches in a row", ""]
    for pool in dict.fromkeys(row["pool"] for row in rows):
        gains = [
            100 * (float(row["judged"]) - float(row["apart"]))
            for row in rows
            if row["pool"] == pool
        ]
        mean = mean_interval(gains)
        lines.append(
            f"- {pool}: {mean.value:+.1f} [{mean.low:+.1f}, {mean.high:+.1f}] points of accuracy "
            f"on images that nothing was fitted to, over {len(gains)} mixed networks, against "
            "stitches that are each fitted to what the donors alone make "
            "(`reassembly_candidates.csv`)"
        )
    return "\n".join(lines) + "\n" if rows else ""


def _frozen() -> str:
    """Reassembled networks without training, by limit of parameters."""
    text = (
        "## Without training, within equal limits of parameters\n\n"
        "Accuracy on test images; points by which ours is ahead, paired, with 95 % intervals "
        "(`reassembly_frozen.csv`). *Donor* is the best single network that fits, with the same "
        "kind of classifier; the *paper's way* has our stitches:"
    )
    rows = read_rows("reassembly_frozen")
    cells = []
    for key in dict.fromkeys((row["pool"], row["limit_mparams"]) for row in rows):
        mine = {r["way"]: r for r in rows if (r["pool"], r["limit_mparams"]) == key}
        network = mine["ours"]["network"].replace("+", " > ")
        cells.append([
            f"{key[0]}, {float(key[1]):.2f} M", f"{float(mine['ours']['value']):.3f} ({network})",
            _ahead(mine.get("paper")), _ahead(mine.get("donor")),
        ])  # fmt: skip
    columns = ["pool, limit", "ours", "ahead of the paper's way", "ahead of the donor"]
    return section(text, columns, cells)


def _ahead(row: Row | None) -> str:
    return "none fits" if row is None else points(row, "ours_ahead", sign="+")


def _mixed_against_donors() -> str:
    """After training: the best mixed network against the best donor that is no faster."""
    ms = {(r["pool"], r["donors"]): float(r["ms"]) for r in read_rows("reassembly_latency")}
    rows = [row for row in read_rows("reassembly_candidates") if (row["pool"], row["donors"]) in ms]
    text = (
        "## After training\n\n"
        "Of the networks that were trained for the ranking, the best mixed one that is no slower "
        "than a donor, both trained alike, with measured latency (ONNX Runtime, one thread; "
        "`reassembly_candidates.csv`, `reassembly_latency.csv`). The differences of accuracy have "
        "95 % intervals over test images, unpaired:"
    )
    cells = []
    for row in rows:
        if row["mixed"] != "0":
            continue
        limit = ms[row["pool"], row["donors"]]
        fitting = [
            r for r in rows
            if r["pool"] == row["pool"] and r["mixed"] == "1"
            and ms[r["pool"], r["donors"]] <= limit
        ]  # fmt: skip
        best = max(fitting, key=lambda r: float(r["trained"]), default=None)
        start = [f"{row['pool']}, {row['donors'].split('+')[0]}", _trained(row, ms)]
        found = ["none was drawn", "", ""] if best is None else [
            best["donors"].replace("+", " > "), _trained(best, ms), _difference(best, row)
        ]  # fmt: skip
        cells.append(start + found)
    columns = ["pool, donor", "accuracy", "best mixed network that is no slower", "accuracy",
               "points"]  # fmt: skip
    return section(text, columns, cells)


def _difference(one: dict[str, str], other: dict[str, str]) -> str:
    """Points between two accuracies; unpaired, for the answers are not kept."""
    shares, images = [float(r["trained"]) for r in (one, other)], float(one["test_images"])
    half = 1.96 * sum(p * (1 - p) / images for p in shares) ** 0.5
    gap = shares[0] - shares[1]
    return f"{100 * gap:+.1f} [{100 * (gap - half):+.1f}, {100 * (gap + half):+.1f}]"


def _trained(row: dict[str, str], ms: dict[tuple[str, str], float]) -> str:
    return f"{float(row['trained']):.3f} ({ms[row['pool'], row['donors']]:.2f} ms)"


def _swapped() -> str:
    """Backbones of detectors exchanged."""
    text = (
        "## Backbone of one detector, neck and head of another\n\n"
        "AP50 of all classes on the 64 validation images of `coco256`, with 95 % intervals "
        "(`detector_swap.csv`). *Wired* has no stitches; *stitched* has 1x1 convolutions fitted to "
        "128 images without boxes; *fitted* has neck and head fitted to them, too, in closed form. "
        "Both backbones began with the same weights, before their projects trained them:"
    )
    rows, ways = read_rows("detector_swap"), ("own", "wired", "stitched", "fitted")
    cells = []
    for head in dict.fromkeys(row["head"] for row in rows):
        mine = {row["way"]: row for row in rows if row["head"] == head}
        found = [interval(mine[way], "ap50") for way in ways]
        cells.append([mine["wired"]["backbone"], head, *found])
    return section(text, ["backbone", "neck and head", *ways], cells)


def _searches() -> str:
    """What the whole command takes."""
    rows = read_rows("reassembly_search")
    images = rows[0]["images"] if rows else ""
    text = (
        "## Time and memory of a whole search\n\n"
        "`nnfactory reassemble` for half of the parameters of the largest network, "
        f"{images} images to fit to and as many to choose on, one run each. *Known* is "
        "what the networks make of the images, as after a run that was interrupted "
        "(`reassembly_search.csv`):"
    )
    cells = []
    for pool in dict.fromkeys(row["pool"] for row in rows):
        mine = {row["run"]: row for row in rows if row["pool"] == pool}
        first, again = mine["from nothing"], mine["features known"]
        cells.append([
            f"{pool}, {first['networks']} networks", f"{float(first['seconds']):.0f} s",
            f"{float(again['seconds']):.0f} s", f"{float(first['peak_mib']):,.0f} MiB",
        ])  # fmt: skip
    return section(text, ["pool", "from nothing", "features known", "memory"], cells)


TABLES = (_partitions, _in_a_row, _frozen, _rankings, _mixed_against_donors, _searches, _swapped)
