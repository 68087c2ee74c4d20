"""The package as a whole: what it ships, how lightly it imports, and who may import whom."""

from __future__ import annotations

import ast
import configparser
import doctest
import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import nnfactory

ROOT = Path(__file__).resolve().parents[1]  # the checkout; `nnfactory` may be an installed copy
FOLDERS = ("api", "cli", "devices", "exporters", "factory")
SHIPPED = {"fod31", "tiny200"}
DATA_FOLDERS = ("factory/libraries", "factory/recipes", "devices/profiles", "devices/predictors")
TORCH_FOLDERS = ("factory/supernet", "factory/reuse/training")
FRAMEWORKS = {"numpy", "onnx", "onnxruntime", "scipy", "tensorrt", "torch"}


def source_files() -> list[Path]:
    """Python files of the package, relative to the checkout."""
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.py"), *inside])


def data_files(folder: str) -> list[Path]:
    """Other files below a folder of the package, relative to the checkout."""
    return sorted(
        path.relative_to(ROOT)
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"} and not path.name.startswith(".")
    )


def setup_list(section: str, key: str) -> list[str]:
    """Lines of a list in setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config.get(section, key, fallback="").split()


def module_name(path: Path) -> str:
    """Dotted name of a file, such as "nnfactory.factory.schema"."""
    parts = path.parts[:-1] if path.name == "__init__.py" else path.with_suffix("").parts
    return ".".join(("nnfactory", *parts))


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute dotted names that a file imports anywhere, functions included, and their lines.

    ``from ..factory import schema`` gives both "nnfactory.factory" and
    "nnfactory.factory.schema": it may mean either.
    """
    package = ("nnfactory", *path.parts[:-1])
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join((*base, *([node.module] if node.module else ())))
            yield start, node.lineno
            yield from ((f"{start}.{alias.name}", node.lineno) for alias in node.names)


def is_within(name: str, *parents: str) -> bool:
    """Whether a dotted name is one of ``parents`` or below one."""
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def in_folder(path: Path, *folders: str) -> bool:
    """Whether a file lies in one of the folders, such as "factory/supernet"."""
    return any(path.is_relative_to(folder) for folder in folders)


# What is shipped


def test_every_folder_with_python_files_is_in_the_list_of_packages() -> None:
    folders = {".".join(("nnfactory", *path.parts[:-1])) for path in source_files()}
    assert set(setup_list("options", "packages")) == folders


def test_every_package_folder_has_an_init_file() -> None:
    missing = {
        path.parent for path in source_files() if not (ROOT / path.parent / "__init__.py").exists()
    }
    assert not missing


def test_every_data_file_in_a_package_folder_matches_a_pattern() -> None:
    shipped = {ROOT / "py.typed"}
    for package in setup_list("options", "packages"):
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in setup_list("options.package_data", package):
            shipped.update(folder.glob(pattern))
    present = {ROOT / path for folder in FOLDERS for path in data_files(folder)}
    assert present
    assert not sorted(map(str, present - shipped))


def test_tested_package_is_this_checkout() -> None:
    installed = Path(nnfactory.__file__).resolve().parent
    advice = 'The installed nnfactory is not this checkout: run pip install ".[test]" again.'
    stale = [
        str(path)
        for path in source_files()
        if not (installed / path).is_file()
        or (installed / path).read_bytes() != (ROOT / path).read_bytes()
    ]
    assert not stale, advice
    left_over = [
        str(path.relative_to(installed))
        for folder in FOLDERS
        for path in (installed / folder).rglob("*.py")
        if not (ROOT / path.relative_to(installed)).is_file()
    ]
    assert not left_over, f"{advice} Remove the folder 'build' first."


def test_every_data_file_is_installed() -> None:
    installed = Path(nnfactory.__file__).resolve().parent
    for folder in DATA_FOLDERS:
        present = data_files(folder)
        assert present, f"{folder} is empty"
        assert not [str(path) for path in present if not (installed / path).is_file()]


# Public names and light imports


def test_public_names_resolve() -> None:
    for name in nnfactory.__all__:
        assert getattr(nnfactory, name) is not None
    assert set(nnfactory.__all__) <= set(dir(nnfactory))


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'assemble_all'"):
        nnfactory.assemble_all  # noqa: B018


def test_public_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (guard,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name
        for node in guard.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == set(nnfactory.__all__) - {"__version__"}


def test_every_noun_and_every_error_is_public() -> None:
    schema = importlib.import_module("nnfactory.factory.schema")
    errors = importlib.import_module("nnfactory.factory.errors")
    nouns = {name for name, thing in vars(schema).items() if is_dataclass(thing)}
    raised = {name for name, thing in vars(errors).items() if name.endswith("Error")}
    assert {name for name in nouns | raised if not name.startswith("_")} <= set(nnfactory.__all__)


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after ``code``."""
    report = "import sys; print('\\nLOADED', *{name.partition('.')[0] for name in sys.modules})"
    finished = subprocess.run(
        [sys.executable, "-c", f"try:\n    {code}\nexcept SystemExit:\n    pass\n{report}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    return set(finished.stdout.splitlines()[-1].split()[1:])


def test_importing_nnfactory_loads_nothing_but_the_standard_library() -> None:
    extra = loaded_after("import nnfactory") - loaded_after("import importlib, typing")
    assert extra - sys.stdlib_module_names == {"nnfactory"}


def test_nouns_load_nothing_but_the_standard_library() -> None:
    extra = loaded_after("from nnfactory import Budget, SpecError") - loaded_after("import typing")
    assert extra - sys.stdlib_module_names == {"nnfactory"}


def test_help_loads_no_framework() -> None:
    code = "import sys; sys.argv = ['nnfactory', '--help']; from nnfactory.cli import main; main()"
    assert not loaded_after(code) & FRAMEWORKS


def test_python_dash_m_prints_help() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "nnfactory", "--help"], capture_output=True, text=True, timeout=60
    )
    assert finished.returncode == 0, finished.stderr
    assert "build" in finished.stdout


def test_version_is_that_of_the_installed_distribution() -> None:
    try:
        installed = importlib.metadata.version("nnfactory")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nnfactory is imported from a checkout that is not installed")
    assert nnfactory.__version__ == installed


# Who may import whom; import-linter holds the layers in `make check` too


def broken(rule: str) -> list[str]:
    """Every import that breaks a rule, as "file:line imports name"."""
    may_not = RULES[rule]
    return [
        f"{path}:{line} imports {name}"
        for path in source_files()
        for name, line in imports_of(path)
        if may_not(path, name)
    ]


NOUNS = ("nnfactory.factory.schema", "nnfactory.factory.errors")
# Standard library only as well: how quantities are read, and how nouns become JSON.
PLAIN = (*NOUNS, "nnfactory.factory.units", "nnfactory.factory.serialize")
RULES = {
    "factory imports neither devices nor exporters, api or cli": lambda path, name: (
        in_folder(path, "factory")
        and is_within(name, *(f"nnfactory.{x}" for x in ("devices", "exporters", "api", "cli")))
    ),
    "devices import neither exporters nor api nor cli": lambda path, name: (
        in_folder(path, "devices")
        and is_within(name, *(f"nnfactory.{x}" for x in ("exporters", "api", "cli")))
    ),
    "exporters import neither devices nor api nor cli": lambda path, name: (
        in_folder(path, "exporters")
        and is_within(name, *(f"nnfactory.{x}" for x in ("devices", "api", "cli")))
    ),
    "api does not import cli": lambda path, name: (
        path == Path("api.py") and is_within(name, "nnfactory.cli")
    ),
    "cli imports api, the nouns and the errors": lambda path, name: (
        in_folder(path, "cli")
        and is_within(name, "nnfactory.devices", "nnfactory.exporters", "nnfactory.factory")
        and name != "nnfactory.factory"  # the start of `from ..factory import schema`
        and not is_within(name, *PLAIN)
    ),
    "schema and errors import only the standard library": lambda path, name: (
        module_name(path) in NOUNS
        and name.partition(".")[0] not in sys.stdlib_module_names
        and name != "nnfactory.factory"
        and not is_within(name, *NOUNS)
    ),
    "torch is imported in factory/supernet and factory/reuse/training alone": lambda path, name: (
        is_within(name, "torch", "faster_coco_eval") and not in_folder(path, *TORCH_FOLDERS)
    ),
    "tensorrt is imported in exporters/runtime and devices/runners alone": lambda path, name: (
        is_within(name, "tensorrt", "tensorrt_rtx")
        and not in_folder(path, "exporters/runtime", "devices/runners")
    ),
    "onnxruntime is imported where it is evaluated, timed or shipped": lambda path, name: (
        is_within(name, "onnxruntime")
        and path != Path("factory/graph/evaluate.py")
        and not in_folder(path, "exporters", "devices/runners")
    ),
    "the runtime that is copied into artifacts needs nothing of ours": lambda path, name: (
        in_folder(path, "exporters/runtime")
        and name.partition(".")[0]
        not in {*sys.stdlib_module_names, "numpy", "onnxruntime", "tensorrt", "PIL"}
    ),
    "nobody unpickles": lambda path, name: is_within(
        name, "pickle", "dill", "joblib", "shelve", "marshal"
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_import_rule_holds(rule: str) -> None:
    assert not broken(rule)


def test_imports_inside_the_package_are_relative() -> None:
    absolute = [
        f"{path}:{node.lineno}"
        for path in source_files()
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if (
            isinstance(node, ast.Import)
            and any(is_within(alias.name, "nnfactory", *FOLDERS) for alias in node.names)
        )
        or (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and is_within(node.module or "", "nnfactory", *FOLDERS)
        )
    ]
    assert not absolute


def test_torch_and_tensorrt_are_not_imported_when_a_module_outside_their_folder_loads() -> None:
    """Importing their folders loads torch, so elsewhere they are imported inside functions."""
    early = [
        f"{path}:{node.lineno}"
        for path in source_files()
        if not in_folder(path, *TORCH_FOLDERS, "exporters/runtime")
        for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if {"supernet", "training", "tensorrt", "torch"} & set(name.split("."))
    ]
    assert not early


def test_nothing_prints_but_the_runtime_in_an_artifact() -> None:
    printing = [
        f"{path}:{node.lineno}"
        for path in source_files()
        if not in_folder(path, "exporters/runtime")
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not printing


def test_runtime_in_an_artifact_is_python_3_8() -> None:
    for path in source_files():
        if in_folder(path, "exporters/runtime"):
            ast.parse((ROOT / path).read_text(encoding="utf-8"), feature_version=(3, 8))


# Documentation in the code


def test_examples_in_docstrings_are_true() -> None:
    for path in source_files():
        if ">>> " in (ROOT / path).read_text(encoding="utf-8"):
            outcome = doctest.testmod(importlib.import_module(module_name(path)))
            assert outcome.failed == 0, f"{outcome.failed} examples in {path} are wrong"


def test_both_libraries_are_shipped_open_and_small() -> None:
    from nnfactory.factory.library.store import SHIPPED as FOLDER
    from nnfactory.factory.library.store import open_library

    assert {path.name for path in FOLDER.iterdir()} == SHIPPED
    for name in SHIPPED:
        library = open_library(FOLDER / name)
        assert library.name == name
        assert len(library.accuracy["pairs"]) >= 300
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size <= 16 * 2**20
