"""Writing an artifact folder whole or not at all, and checking one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx

from ..factory.errors import DataError, PrecisionError, UsageError, VerificationError
from ..factory.schema import Artifact
from ..factory.serialize import table_from_noun
from .contents import Contents
from .golden import write_golden
from .manifest import SCHEMA, manifest_from_contents, sample_files
from .metadata import read_metadata, task_from_metadata
from .onnx import precision_of, tensors_of
from .report import readme_from_manifest

MANIFEST = "manifest.json"
CHECKSUMS = "SHA256SUMS"
_COPIED = {"nnf_runtime.py": "python/nnf_runtime.py", "build_engine.py": "build_engine.py"}


def write_artifact(place: Path, contents: Contents, *, overwrite: bool = False) -> Artifact:
    """Write an artifact; ``place`` holds all of it or what it held before.

    An intact artifact of the same plan is replaced.

    Args:
        place: The folder to make.
        contents: What goes into it.
        overwrite: Replace whatever is there.

    Raises:
        UsageError: Something else is at ``place``, or it cannot be written.
        DataError: The network has no metadata, or that of another plan.
        PrecisionError: The network does not hold the precision of the plan.
        VerificationError: A parity check of ``contents`` did not pass.
    """
    place = Path(os.path.abspath(place))  # noqa: PTH100 - a link is replaced, not followed
    check_place(place, contents.plan.id, overwrite=overwrite)
    staging = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        staging.mkdir(parents=True)
        artifact = _fill(staging, contents, place)
        _move(staging, place)
    except OSError as error:
        raise UsageError(f"Cannot write the artifact to {place}: {error}.") from error
    finally:
        if staging.exists():
            shutil.rmtree(staging, ignore_errors=True)
    return artifact


def check_place(place: Path, plan_id: str, *, overwrite: bool = False) -> None:
    """Raise unless an artifact of ``plan_id`` may be written to ``place``.

    Args:
        place: The artifact folder.
        plan_id: "" where the plan is not known yet; then any artifact there is kept.
        overwrite: Whether anything but a protected folder may be replaced.

    Raises:
        UsageError: Something is there that must not be replaced, with the reason.
    """
    place = Path(os.path.abspath(place))  # noqa: PTH100 - a link is replaced, not followed
    if place.resolve() in _protected():
        raise UsageError(f"{place} is or holds the current or home folder; name another one.")
    if overwrite or not os.path.lexists(place):
        return
    if place.is_dir() and not place.is_symlink():
        if not any(place.iterdir()):
            return
        reason = _why_kept(place, plan_id)
    else:
        reason = "is no folder"
    if reason:
        hints = ["pass --overwrite to replace it, or name another folder with --out"]
        raise UsageError(f"{place} {reason}.", hints=hints)


def _protected() -> set[Path]:
    """Folders that are never replaced: the current and the home folder, and what holds them."""
    inner = [Path.cwd()]
    with contextlib.suppress(RuntimeError):  # a user without a home
        inner.append(Path.home().resolve())
    return {folder for path in inner for folder in (path, *path.parents)}


def _why_kept(folder: Path, plan_id: str) -> str:
    """Why a folder may not be replaced, or "" for an intact artifact of the plan."""
    try:
        manifest = check_artifact(folder)
    except DataError:
        return "is a folder, but no artifact"
    except VerificationError as error:
        return f"is an artifact that was changed: {error}"[:-1]
    if manifest["plan"]["id"] != plan_id:
        other = "another" if plan_id else "an"  # it is not known yet whether it is the same
        return f"holds {other} artifact, of plan {manifest['plan']['id']}"
    written = {*manifest["files"], MANIFEST, CHECKSUMS}
    foreign = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not path.is_dir() and "__pycache__" not in path.parts
    )
    foreign = [path for path in foreign if path not in written]
    return f"holds '{foreign[0]}', which is not part of the artifact" if foreign else ""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact.

    Raises:
        DataError: The folder is no artifact, or a newer nnfactory wrote it.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema, files = manifest["schema"], manifest["files"]
        known = {name: entry["sha256"] + "" for name, entry in files.items()}
        plan_id = manifest["plan"]["id"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{folder} is no artifact: it has no readable {MANIFEST}.",
            hints=["name the folder that 'nnfactory build' wrote"],
        ) from error
    if not isinstance(schema, int) or schema > SCHEMA or not isinstance(plan_id, str):
        raise DataError(f"{folder} was written by a newer nnfactory (manifest schema {schema!r}).")
    for name in known:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{path} lists '{name}', which is outside the artifact.")
    return dict(manifest)


def check_artifact(folder: Path) -> dict[str, Any]:
    """Check every file of an artifact against its hash; the manifest.

    Raises:
        DataError: The folder is no artifact.
        VerificationError: A file is missing or was changed; names it.
    """
    folder = Path(folder)
    listed = _read_text(folder / CHECKSUMS)
    for line in listed.splitlines():
        sha256, _, name = line.partition("  ")
        if name == MANIFEST:
            _check_file(folder, MANIFEST, sha256)
    manifest = read_manifest(folder)
    for name, entry in sorted(manifest["files"].items()):
        _check_file(folder, name, entry["sha256"])
    if listed != _checksums(manifest["files"], folder / MANIFEST):
        raise VerificationError(
            f"{folder}: '{CHECKSUMS}' is missing or was changed.", details={"file": CHECKSUMS}
        )
    return manifest


def _check_file(folder: Path, name: str, sha256: str) -> None:
    path = folder / name
    if not path.is_file():
        raise VerificationError(f"{folder}: '{name}' is missing.", details={"file": name})
    if _sha256(path) != sha256:
        raise VerificationError(f"{folder}: '{name}' was changed.", details={"file": name})


def _fill(folder: Path, contents: Contents, place: Path) -> Artifact:
    """Write every file of the artifact into an empty folder."""
    network = onnx.load_model_from_string(contents.network)
    metadata = read_metadata(network)
    _check_contents(contents, network, metadata)
    preprocess = json.loads(metadata["nnfactory.preprocess"])
    manifest = manifest_from_contents(
        contents,
        metadata=metadata,
        preprocess=preprocess,
        tensors=tensors_of(network),
        precision=precision_of(network),
        versions=_versions(),
    )
    (folder / "model.onnx").write_bytes(contents.network)
    _write_text(folder / "labels.txt", "\n".join(contents.plan.task.classes))
    _write_json(folder / "preprocess.json", preprocess)
    for source, target in _COPIED.items():
        path = folder / target
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((resources.files(__package__) / "runtime" / source).read_bytes())
    for name, measurement in sample_files(contents).items():
        (folder / name).parent.mkdir(exist_ok=True)
        _write_json(folder / name, table_from_noun(measurement))
    write_golden(folder / "golden", folder / "model.onnx")
    files = _listing(folder)
    _write_text(folder / "README.md", readme_from_manifest(manifest | {"files": files}))
    manifest["files"] = dict(sorted({**files, "README.md": _entry(folder / "README.md")}.items()))
    _write_json(folder / MANIFEST, manifest)
    sums = _checksums(manifest["files"], folder / MANIFEST)
    (folder / CHECKSUMS).write_bytes(sums.encode())
    inputs, outputs = tensors_of(network)
    return Artifact(
        folder=str(place),
        files={name: entry["sha256"] for name, entry in manifest["files"].items()},
        inputs=inputs,
        outputs=outputs,
        precision_requested=contents.plan.precision,
        precision_achieved=manifest["precision"]["achieved"],
    )


def _check_contents(
    contents: Contents, network: onnx.ModelProto, metadata: Mapping[str, str]
) -> None:
    """Raise unless the parts belong together and every proof holds."""
    task = replace(task_from_metadata(metadata), examples=contents.plan.task.examples)
    if (metadata["nnfactory.plan"], task) != (contents.plan.id, contents.plan.task):
        raise DataError(f"The network's metadata is not that of plan {contents.plan.id}.")
    asked, achieved = contents.plan.precision, precision_of(network)
    if achieved != asked:
        raise PrecisionError(f"The plan asks for {asked}, but the network holds {achieved}.")
    for parity in contents.parity:
        if not parity.passed:
            raise VerificationError(
                f"{parity.a} and {parity.b} differ by {parity.max_abs:.3g}, more than "
                f"{parity.tolerance:.3g}; the artifact is not written."
            )


def _versions() -> dict[str, str]:
    import onnxruntime

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _move(staging: Path, place: Path) -> None:
    """Put a finished folder in its place; what was there goes, or comes back on failure."""
    if not os.path.lexists(place):
        staging.rename(place)
        return
    aside = staging.with_name(staging.name + ".old")
    place.rename(aside)
    try:
        staging.rename(place)
    except BaseException:
        aside.rename(place)
        raise
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    """Hash and size of every file in a folder, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _entry(path) for path in paths}


def _entry(path: Path) -> dict[str, Any]:
    return {"sha256": _sha256(path), "bytes": path.stat().st_size}


def _checksums(files: Mapping[str, Mapping[str, Any]], manifest: Path) -> str:
    """The list of hashes that ``sha256sum --check`` reads."""
    sums = {name: str(entry["sha256"]) for name, entry in files.items()}
    sums[MANIFEST] = _sha256(manifest)
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))


def _read_text(path: Path) -> str:
    """Contents of a text file, or "" when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def _write_json(path: Path, table: object) -> None:
    _write_text(path, json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False))
