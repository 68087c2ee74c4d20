"""The manifest: one table with every fact about an artifact, as plain JSON values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..factory.schema import Accuracy, Interval, Measurement, TensorSpec
from ..factory.serialize import table_from_noun
from .contents import Contents
from .runtime.nnf_runtime import CONFIDENCE

SCHEMA = 1

_POSTPROCESS: dict[str, dict[str, object]] = {
    "detect": {
        "output": "rows x1, y1, x2, y2, score, class; unused rows have score 0 and class 0",
        "coordinates": "pixels of the network's input",
        "suppression": "none needed",
        "confidence": CONFIDENCE,
    },
    "classify": {"output": "class probabilities"},
}


def manifest_from_contents(
    contents: Contents,
    *,
    metadata: Mapping[str, str],
    preprocess: Mapping[str, object],
    tensors: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
    precision: str,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """The manifest without its ``files``.

    Args:
        contents: What the artifact is written from.
        metadata: Metadata of the network.
        preprocess: How an image becomes the input.
        tensors: Inputs and outputs of the network.
        precision: What the network's weights really are.
        versions: Software that wrote the artifact.
    """
    inputs, outputs = tensors
    return {
        "schema": SCHEMA,
        "name": contents.name,
        "created": metadata["date"],
        "nnfactory": metadata["version"],
        "task": metadata["task"],
        "inputs": table_from_noun(inputs),
        "outputs": table_from_noun(outputs),
        "preprocess": dict(preprocess),
        "postprocess": _POSTPROCESS[metadata["task"]],
        "classes": list(contents.plan.task.classes),
        "budgets": {"asked": _asked(contents)},
        "measured": [
            _measured(measurement, path) for path, measurement in sample_files(contents).items()
        ],
        "estimated": _estimated(contents),
        "plan": _plan(contents),
        "accuracy": [_accuracy(accuracy) for accuracy in contents.accuracy],
        "precision": {
            "requested": contents.plan.precision,
            "achieved": precision,
            "layers_file": None,
        },
        "parity": [{**table_from_noun(p), "pass": p.passed} for p in contents.parity],
        "assembly": _assembly(contents),
        "provenance": {
            "command": contents.command,
            "versions": dict(versions),
            "library": table_from_noun(contents.card),
        },
    }


def sample_files(contents: Contents) -> dict[str, Measurement]:
    """Path inside the artifact of every measurement's samples."""
    files: dict[str, Measurement] = {}
    for measurement in contents.measurements:
        stem = re.sub(r"[^a-z0-9.]+", "-", measurement.device.casefold()).strip("-.") or "device"
        path, number = Path("bench") / f"{stem}.json", 2
        while path.as_posix() in files:
            path, number = path.with_name(f"{stem}-{number}.json"), number + 1
        files[path.as_posix()] = measurement
    return files


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else table_from_noun(interval)


def _measured(measurement: Measurement, path: str) -> dict[str, Any]:
    """Summary of a measurement; all its samples are in ``path``."""
    names = ("device", "runtime", "precision", "threads")
    table = {name: getattr(measurement, name) for name in names}
    percentiles = {f"p{q}_ms": measurement.percentile(q) for q in (50, 90, 99)}
    return table | percentiles | {
        "n": measurement.n,
        "interval": _interval(measurement.median_interval()),
        "energy_mj": None,
        "power_mode": measurement.conditions.get("power_mode"),
        "clocks": table_from_noun(measurement.conditions.get("clocks")),
        "rss_mib": measurement.rss_mib or None,
        "memory_mib": measurement.memory_mib,
        "verdict": measurement.verdict,
        "reason": measurement.reason,
        "versions": dict(measurement.versions),
        "samples": path,
    }  # fmt: skip


def _asked(contents: Contents) -> dict[str, object]:
    """Device and limits of the request."""
    budget = table_from_noun(contents.budget)
    return {"device": contents.device, **budget, **contents.further_limits}


def _estimated(contents: Contents) -> list[dict[str, Any]]:
    """What was predicted for the device; nothing observed may stand here."""
    estimate = contents.estimate
    if estimate.latency_ms is None and estimate.accuracy is None:
        return []
    return [
        {
            "device": contents.device,
            "runtime": estimate.runtime,
            "precision": estimate.precision,
            "percentile": contents.budget.percentile,
            "latency_ms": _interval(estimate.latency_ms),
            "energy_mj": _interval(estimate.energy_mj),
            "accuracy": _interval(estimate.accuracy),
            "least_class": estimate.least_class or None,
            "least_class_accuracy": _interval(estimate.least_class_accuracy),
        }
    ]


def _plan(contents: Contents) -> dict[str, Any]:
    plan, estimate = contents.plan, contents.estimate
    return {
        "id": plan.id,
        "sparsity": plan.sparsity,
        "slots": {name: list(groups) for name, groups in plan.active.items()},
        "input_size": plan.input_size,
        "library": plan.library,
        "library_id": plan.library_id,
        "normalization": plan.normalization,
        "is_modulated": plan.is_modulated,
        "examples": plan.task.examples or None,
        "statistics_of": plan.statistics_of or None,
        "chosen": None if contents.chosen is None else table_from_noun(contents.chosen),
        "counted": {
            "mparams": estimate.mparams,
            "mmacs": estimate.mmacs,
            "memory_mib": estimate.memory_mib,
            "file_mib_at_most": estimate.file_mib,
        },
    }


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    interval = accuracy.interval
    return {
        "subject": accuracy.subject,
        "dataset": accuracy.dataset,
        "sha256": accuracy.sha256 or None,
        "metric": accuracy.metric,
        "value": interval.value,
        "ci": {"low": interval.low, "high": interval.high, "level": interval.level},
        "n": interval.n,
    }


def _assembly(contents: Contents) -> dict[str, Any]:
    certificate = contents.certificate
    return {
        "made": contents.made,
        "modules": [
            {
                "id": part.id,
                "version": part.version,
                "licence": part.license or None,
                "source": part.source,
                "active": part.active,
                "parts": list(part.parts),
            }
            for part in contents.sources
        ],
        "solver": certificate.method,
        "objective": certificate.objective,
        "bound": certificate.bound,
        "gap": certificate.gap,
        "goal": certificate.goal,
        "binding": list(certificate.binding),
        "more": [table_from_noun(gain) for gain in certificate.more],
    }
