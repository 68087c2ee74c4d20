"""The page that tells people what a module library is, from its ``library.toml``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .library import ModuleLibrary
from .store import CARD

PAGE = "README.md"
CURVES = "curves.png"
_TASKS = {
    "cls": "says which class an image shows (classification)",
    "det": "finds objects in images, each with a box and a class (detection)",
}
_METRICS = {
    "top-1": "top-1 is the share of images whose first answer is right.",
    "AP50": (
        "AP50 is the average precision of COCO, a mean over the classes; a box counts as found "
        "from an overlap (IoU) of one half."
    ),
}
_NORMALIZATIONS = {
    "sliced": "cut from the whole network",
    "stored": "predicted from moments that are stored in the library",
    "reestimated": "estimated on images when a network is built",
}
_CONTENTS = {
    CARD: "what this page is made from, and the SHA-256 of the other files",
    "accuracy.json": "measured plans and the fit of the accuracy estimate",
    "modules.json": "which tensors every module owns",
    "statistics.npz": "moments for the normalization of networks that are cut out",
    "supernet.onnx": "the whole network",
    "values.safetensors": "what every module is worth for every class",
}
_COUNTS = {
    "train": "training images",
    "validation": "validation images",
    "test": "test images",
}
_NOT_FOR = (
    "Decisions that safety, health or the rights of people depend on, without a validation of "
    "your own on images of the place and the camera where it is used.",
    "Images unlike those it was trained on. The accuracy holds for images like the {split} images "
    "of the data set; another camera, light, distance or background can lower it by an amount "
    "that nobody has measured.",
    "Uses that the licence of the images or that of the weights does not allow; both are below.",
)
_NOT_FOR_KIND = {
    "cls": (
        "Telling whether an image shows one of the classes at all: every image gets one of them "
        "as its answer, whatever it shows."
    ),
    "det": (
        "Proof that nothing is there: objects are missed, and objects of other kinds are not "
        "found or are taken for one of the classes."
    ),
}


def card_markdown(library: ModuleLibrary) -> str:
    """The library card as Markdown, with tables as GitHub reads them.

    Beyond what every library has, it shows these parts of ``library.card`` where they exist:
    ``per_class``, rows of ``name`` and, each where known, ``n``, ``metric`` with ``low`` and
    ``high``, ``ap50_95``, ``train``, ``validation`` and ``test`` (numbers of images);
    ``data.images``, the numbers of images per split; ``metric.ap50_95``; ``not_for``, a list of
    sentences; and ``training.recipe.teacher``. The picture of the training and the sizes of the
    files are shown where the files are in ``library.folder``.
    """
    sections = (
        _introduction(library), _not_for(library), _accuracy(library.card), _classes(library),
        _data(library.card), _training(library), _normalization(library.card), _files(library),
    )  # fmt: skip
    return "\n\n".join(section for section in sections if section) + "\n"


def _introduction(library: ModuleLibrary) -> str:
    card = library.card
    modules = sum(slot.groups for slot in library.blocks)
    sizes = card["input"].get("sizes") or [card["input"]["size"]]
    metric = card["metric"]
    facts = {
        "task": f"{_TASKS[library.kind]}; {len(library.classes)} classes",
        "input": f"{_listed(sizes, 'or')} pixels square, {_escaped(card['input']['color'])}, "
        f"by {_escaped(card['input']['resize'])}",
        "accuracy": f"{_escaped(metric['name'])} {_figure(metric)} on {metric['n']} "
        f"{_escaped(metric['split'])} images, with all modules and all classes",
        "weights": _escaped(card["weights"]["license"]),
        "id": f"`{library.id}`",
    }
    return (
        f"# {_escaped(library.name)}: {_escaped(card['title'])}\n\n"
        f"A module library: {modules} modules in {len(library.blocks)} blocks, trained together. "
        "`nnfactory build` takes those that a task and a device need and links them to a small "
        "network.\n\n" + _table(("", ""), facts.items())
    )


def _not_for(library: ModuleLibrary) -> str:
    split = _escaped(library.card["metric"]["split"])
    sentences = [_escaped(sentence) for sentence in library.card.get("not_for", ())]
    sentences = sentences or [
        *(sentence.format(split=split) for sentence in _NOT_FOR), _NOT_FOR_KIND[library.kind]
    ]  # fmt: skip
    return "## What it must not be used for\n\n" + "\n".join(f"- {line}" for line in sentences)


def _accuracy(card: Mapping[str, Any]) -> str:
    metric = card["metric"]
    n, name = str(metric["n"]), _escaped(metric["name"])
    head = ("metric", "value", f"{metric['level']:.0%} interval", f"n ({metric['split']} images)")
    rows = [(name, f"{metric['value']:.1%}", _interval(metric), n)]
    if "ap50_95" in metric:
        rows.append(("AP50:95", f"{metric['ap50_95']:.1%}", "not estimated", n))
    notes = [_METRICS.get(metric["name"], "")]
    if "ap50_95" in metric:
        notes.append("AP50:95 is its mean over overlaps of 0.50, 0.55, .. 0.95.")
    notes.append(
        "Measured once, with all modules and all classes. The interval tells how far another draw "
        "of images of the same kind would move the value."
    )
    return f"## Accuracy\n\n{_table(head, rows)}\n\n{' '.join(note for note in notes if note)}"


def _classes(library: ModuleLibrary) -> str:
    """A table where there are figures of the classes, else their names."""
    title, metric = f"## Classes ({len(library.classes)})", library.card["metric"]
    rows = library.card.get("per_class", ())
    if not rows:
        return f"{title}\n\nIt recognises: {'; '.join(map(_escaped, library.classes))}."
    columns: dict[str, str] = {
        key: heading
        for key, heading in {
            **_COUNTS, "n": "n", "metric": _escaped(metric["name"]), "ap50_95": "AP50:95",
        }.items()
        if any(key in row for row in rows)
    }  # fmt: skip
    cells = [(_escaped(row["name"]), *(_cell(row, key) for key in columns)) for row in rows]
    text = f"{title}\n\n{_table(('class', *columns.values()), cells)}"
    if "n" in columns:
        split = _escaped(metric["split"])
        text += (
            f"\n\nn counts the {split} images that show the class; the fewer there are, the "
            "rougher the figure."
        )
    return text


def _cell(row: Mapping[str, Any], key: str) -> str:
    """One figure of a class; a dash where it is not known."""
    if row.get(key) is None:
        return "–"
    if key == "metric":
        return _figure({**row, "value": row["metric"]})
    return f"{row[key]:.1%}" if key == "ap50_95" else str(row[key])


def _data(card: Mapping[str, Any]) -> str:
    data, images = card["data"], card["data"].get("images", {})
    rows = [
        ("name", _escaped(data["name"])),
        ("origin", _escaped(data.get("origin", "not stated"))),
        ("licence", _escaped(data["license"])),
    ]
    rows += [(_COUNTS[split], str(images[split])) for split in _COUNTS if split in images]
    return (
        f"## Data\n\n{_table(('data set', ''), rows)}\n\n"
        f"Licence of the weights: {_escaped(card['weights']['license'])}."
    )


def _training(library: ModuleLibrary) -> str:
    training = library.card["training"]
    recipe = training["recipe"]
    text = (
        f"## Training\n\nRecipe '{_escaped(recipe['name'])}'. Time: {training['hours']} hours. "
        f"Machine: {_escaped(training['compute'] or 'not stated')}."
    )
    if recipe.get("init"):
        text += f" It started from the weights of the library {_escaped(recipe['init'])}."
    teacher = recipe.get("teacher")
    if teacher:
        text += (
            f" A pretrained network helped as teacher: {_escaped(teacher['network'])}, licence "
            f"{_escaped(teacher.get('license', 'not stated'))}."
        )
    rows = [(f"`{key}`", _escaped(value)) for key, value in recipe["training"].items()]
    text += f"\n\n{_table(('setting', 'value'), rows)}"
    if (library.folder / CURVES).is_file():
        text += f"\n\n![Loss and validation metrics over the training steps]({CURVES})"
    return text


def _normalization(card: Mapping[str, Any]) -> str:
    choice = card["normalization"]
    used, figures = choice["without_images"], choice["validation"]
    rows = [
        (name, _NORMALIZATIONS.get(name, ""), f"{value:.1%}", "yes" if name == used else "")
        for name, value in figures.items()
    ]
    return (
        "## Normalization\n\nA network that is cut out needs other normalization statistics than "
        "the whole. Of the ways that need no images, the better one on validation images is used: "
        f"'{_escaped(used)}'.\n\n"
        + _table(("statistics", "how", "mean validation accuracy of plans", "used"), rows)
    )


def _files(library: ModuleLibrary) -> str:
    """Sizes on disk of the files that the library consists of."""
    paths = [library.folder / name for name in (CARD, *sorted(library.card.get("files", ())))]
    sizes = {path.name: path.stat().st_size for path in paths if path.is_file()}
    if not sizes:
        return ""
    rows = [(f"`{name}`", _CONTENTS.get(name, ""), _size(n)) for name, n in sizes.items()]
    rows.append(("together", "", _size(sum(sizes.values()))))
    return f"## Files\n\n{_table(('file', 'holds', 'size'), rows)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(entry: Mapping[str, Any]) -> str:
    """A value, with its interval where there is one."""
    interval = f" {_interval(entry)}" if "low" in entry and "high" in entry else ""
    return f"{entry['value']:.1%}{interval}"


def _interval(entry: Mapping[str, Any]) -> str:
    return rf"\[{entry['low']:.1%}, {entry['high']:.1%}\]"


def _size(n: int) -> str:
    """A number of bytes, in MiB or KiB."""
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 2**10:.1f} KiB"


def _listed(values: Sequence[object], word: str) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} {word} {last}" if most else last


def _escaped(value: object) -> str:
    """Text on one line, without the characters that Markdown or HTML gives a meaning."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", " ".join(str(value).split()))
