"""The model card: README.md of an artifact, from its manifest alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .runtime.build_engine import engine_key, trtexec_line

Manifest = Mapping[str, Any]
_ONNX = Path("model.onnx")
_PIPELINES = {"detect": "object-detection", "classify": "image-classification"}
_PURPOSES = {"detect": "finds objects", "classify": "says which class an image shows"}


def readme_from_manifest(manifest: Manifest) -> str:
    """The model card, Markdown with YAML front matter."""
    sections = (
        _front_matter(manifest), _introduction(manifest), _usage(), _tensorrt(), _cost(manifest),
        _accuracy(manifest), _license(manifest), _reproduction(manifest),
    )  # fmt: skip
    return "\n\n".join(sections)


def _front_matter(manifest: Manifest) -> str:
    """YAML; strings are written as JSON, which YAML includes."""
    lines = [
        "---",
        f"license: {json.dumps(manifest['provenance']['library']['license'].lower())}",
        "library_name: onnx",
        f"pipeline_tag: {_PIPELINES[manifest['task']]}",
        "tags: [nnfactory, onnx, onnxruntime, tensorrt]",
    ]
    own = [entry for entry in manifest["accuracy"] if entry["subject"] == "artifact"]
    if own:
        lines += ["model-index:", f"- name: {json.dumps(manifest['name'])}", "  results:"]
    for entry in own:
        dataset = _quoted(entry["dataset"])
        lines += [
            f"  - task: {{type: {_PIPELINES[manifest['task']]}}}",
            f"    dataset: {{name: {dataset}, type: {dataset}}}",
            f"    metrics: [{{type: {_quoted(entry['metric'])}, value: {entry['value']:.4f}}}]",
        ]
    return "\n".join([*lines, "---"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _introduction(manifest: Manifest) -> str:
    height, width = manifest["preprocess"]["size"]
    device = manifest["budgets"]["asked"]["device"]
    classes = ", ".join(_escaped(name) for name in manifest["classes"])
    return (
        f"# {_escaped(manifest['name'])}\n\n"
        f"A network that {_PURPOSES[manifest['task']]}, for images of {width} x {height} pixels, "
        f"{_escaped(manifest['assembly']['made'])} for the device '{device}'. "
        f"{manifest['plan']['sparsity']:.1%} of the module parameters to choose from are left "
        "out.\n\n"
        f"Classes ({len(manifest['classes'])}): {classes}."
    )


def _usage() -> str:
    return """## Use

In Python, from inside this folder, with numpy, onnxruntime and pillow:

```python
import sys; sys.path.insert(0, "python")
from nnf_runtime import Runtime
results = Runtime(".")("golden/input.png")
print(results.tojson())
```

In a shell, from inside this folder:

```bash
python3 python/nnf_runtime.py --selftest
python3 python/nnf_runtime.py . golden/input.png
python3 build_engine.py --dry-run
sha256sum --check --quiet SHA256SUMS
```

`model.onnx` takes `images`, float32 (1, 3, H, W), RGB in 0 to 1, and returns `output0`; how an
image becomes the input is in `preprocess.json` and in the metadata of the network, which existing
loaders of ONNX detectors and classifiers read too."""


def _tensorrt() -> str:
    engine = engine_key(_ONNX, fp16=False) + ".plan"
    line = trtexec_line(_ONNX.name, f"engines/{engine}", major=10)
    return (
        "## TensorRT\n\n"
        "On the board, `python3 build_engine.py` builds an engine in `engines/`. "
        "With TensorRT 10 or later this is the same, once the folder `engines` exists:\n\n"
        f"```\n{line}\n```"
    )


def _cost(manifest: Manifest) -> str:
    counted = manifest["plan"]["counted"]
    size = manifest["files"]["model.onnx"]["bytes"] / 2**20
    return "\n\n".join(
        (
            "## Cost",
            "Counted from the graph:\n\n| parameters | MACs | weights and activations | file |\n"
            "|---|---|---|---|\n"
            f"| {counted['mparams']:.3f} M | {counted['mmacs']:.1f} M "
            f"| {counted['memory_mib']:.2f} MiB | {size:.2f} MiB |",
            "### Measured\n\n" + _measured(manifest),
            "### Estimated\n\n" + _estimated(manifest),
        )
    )


def _measured(manifest: Manifest) -> str:
    if not manifest["measured"]:
        return "Nothing was measured: the device was not at hand."
    lines = [
        "| device | runtime | precision | threads | p50 | p90 | p99 | n | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in manifest["measured"]:
        interval = entry["interval"]
        lines.append(
            f"| {_cell(entry['device'])} | {_cell(entry['runtime'])} | {entry['precision']} "
            f"| {entry['threads']} | {entry['p50_ms']:.3g} ms "
            f"[{interval['low']:.3g}, {interval['high']:.3g}] | {entry['p90_ms']:.3g} ms "
            f"| {entry['p99_ms']:.3g} ms | {entry['n']} | {entry['verdict']} |"
        )
    level = manifest["measured"][0]["interval"]["level"]
    lines.append(f"\nLatency of one image, with the {level:.0%} interval of the median.")
    return "\n".join(lines)


def _estimated(manifest: Manifest) -> str:
    if not manifest["estimated"]:
        return "Nothing was estimated."
    lines = ["| device | what | estimate | interval |", "|---|---|---|---|"]
    for entry in manifest["estimated"]:
        latency, accuracy = entry["latency_ms"], entry["accuracy"]
        start = f"| {_cell(entry['device'])} | "
        if latency:
            lines.append(
                f"{start}latency p{entry['percentile']}, {_cell(entry['runtime'])} "
                f"{_cell(entry['precision'])} | {latency['value']:.3g} ms "
                f"| [{latency['low']:.3g}, {latency['high']:.3g}] ms, {latency['level']:.0%} |"
            )
        energy = entry["energy_mj"]
        if energy:
            lines.append(
                f"{start}energy of an image | {energy['value']:.3g} mJ "
                f"| [{energy['low']:.3g}, {energy['high']:.3g}] mJ, {energy['level']:.0%} |"
            )
        if accuracy:
            lines.append(
                f"{start}accuracy on validation images | {accuracy['value']:.1%} "
                f"| [{accuracy['low']:.1%}, {accuracy['high']:.1%}], {accuracy['level']:.0%} |"
            )
    return "\n".join([*lines, "\nPredictions, not observations."])


def _accuracy(manifest: Manifest) -> str:
    if not manifest["accuracy"]:
        return "## Accuracy\n\nNo accuracy was measured."
    lines = ["## Accuracy", "", "| measured of | images | metric | value | interval | n |"]
    lines.append("|---|---|---|---|---|---|")
    subjects = {"artifact": "this network", "library": "the library with all its modules"}
    for entry in manifest["accuracy"]:
        interval = entry["ci"]
        lines.append(
            f"| {subjects[entry['subject']]} | {_cell(entry['dataset'])} "
            f"| {_cell(entry['metric'])} | {entry['value']:.1%} "
            f"| [{interval['low']:.1%}, {interval['high']:.1%}], "
            f"{interval['level']:.0%} | {entry['n']} |"
        )
    chosen = manifest["plan"].get("chosen")
    if chosen:
        lines.append(
            f"\nChosen from {chosen['candidates']} networks with {chosen['images']} other images "
            "of the same origin."
        )
    if manifest["plan"]["normalization"] == "reestimated":
        lines.append("\nThe statistics of its normalization come from those images, too.")
    return "\n".join(lines)


def _license(manifest: Manifest) -> str:
    library = manifest["provenance"]["library"]
    listed = "\n".join(f"- {_escaped(entry)}" for entry in library["data"])
    said = f"Training data ({library['data_license']}), none of which is in this folder:"
    data = f"{said}\n\n{listed}" if listed else "Training data: not stated."
    source = f" Source: {library['source']}" if library["source"] else ""
    parts = [
        f"- {_escaped(part['id'])} ({part['licence'] or 'license not stated'}): "
        f"{_escaped('; '.join(part['parts']))}"
        for part in manifest["assembly"]["modules"]
        if part["parts"]
    ]
    data += "\n\nParts:\n\n" + "\n".join(parts) if parts else ""
    return (
        "## License and provenance\n\n"
        f"Weights: {library['license']}.{source}\n\n"
        f"{data}\n\n"
        "The picture in `golden/` was drawn by a program."
    )


def _reproduction(manifest: Manifest) -> str:
    command = manifest["provenance"]["command"]
    text = f"## Origin\n\nnnfactory {manifest['nnfactory']}, plan `{manifest['plan']['id']}`."
    return f"{text} Made by:\n\n```\n{command}\n```" if command else text


def _escaped(text: str) -> str:
    """Text without the characters that Markdown gives a meaning."""
    return "".join("\\" + letter if letter in "\\`*_<>[]#|" else letter for letter in text)


def _cell(text: str) -> str:
    return _escaped(text.replace("\n", " "))
