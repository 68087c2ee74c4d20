"""Commands and links in the README and the documentation work."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest

from nnfactory.cli import cli
from nnfactory.cli.options import classes_of
from nnfactory.devices.profile import load_profile
from nnfactory.factory.library.store import default_library, library_folders, open_library

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [*([README] if README.exists() else []), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^ {0,3}(```+|~~~+)(.*)$")
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
SHELL = {"", "sh", "bash", "shell", "console", "text"}

pytestmark = pytest.mark.skipif(not PAGES, reason="there is no README and no documentation yet")


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and contents of every fenced block."""
    language, fence = "", ""
    lines: list[str] = []
    for line in text.splitlines():
        match = FENCE.match(line)
        if not fence and match:
            language, fence, lines = match.group(2).strip().split(" ")[0], match.group(1), []
        elif fence and line.strip().startswith(fence):
            yield language, "\n".join(lines)
            fence = ""
        elif fence:
            lines.append(line)


def prose(text: str) -> str:
    """The text without its fenced blocks and inline code."""
    kept, fence = [], ""
    for line in text.splitlines():
        match = FENCE.match(line)
        if match and not fence:
            fence = match.group(1)
        elif fence and line.strip().startswith(fence):
            fence = ""
        elif not fence:
            kept.append(re.sub(r"`[^`]*`", "", line))
    return "\n".join(kept)


def commands_of(text: str) -> Iterator[list[str]]:
    """Words after ``nnfactory`` of every command in the shell blocks of a page."""
    for language, block in blocks(text):
        if language not in SHELL:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            parts: list[list[str]] = [[]]
            for word in lexer:
                if set(word) <= set("|&;<>()"):
                    parts.append([])
                else:
                    parts[-1].append(word)
            yield from (part[1:] for part in parts if part[:1] == ["nnfactory"])


COMMANDS = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words)}")
    for page in PAGES
    for words in commands_of(page.read_text(encoding="utf-8"))
]
LINKS = [
    pytest.param(page, target, id=f"{page.relative_to(ROOT)}: {target}")
    for page in PAGES
    for target in LINK.findall(prose(page.read_text(encoding="utf-8")))
    if not re.match(r"[a-z][a-z0-9+.-]*:", target)
]


def parse(words: list[str]) -> click.Context:
    """Parse a command line as the tool would, without running it; the innermost context."""
    command: click.Command = cli
    context = cli.make_context("nnfactory", list(words), obj={})
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        if not rest:
            break
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, found.make_context(name, rest, parent=context)
    return context


@pytest.fixture(autouse=True)
def _files_need_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, context: Path(value))


@pytest.mark.parametrize("words", COMMANDS)
def test_command_in_the_documentation_parses(words: list[str]):
    try:
        asked = parse(words).params
    except click.exceptions.Exit:  # --help ends here
        return
    if asked.get("device"):
        assert load_profile(asked["device"])
    kinds = {library.kind for library in map(open_library, library_folders())}
    if asked.get("task") in kinds and not asked.get("library"):
        library = default_library(asked["task"])
        assert library.task(classes_of(asked["classes"], asked["more_classes"], None).names)


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_relative_link_in_the_documentation_leads_somewhere(page: Path, target: str):
    path, _, anchor = target.partition("#")
    place = (page.parent / unquote(path)).resolve() if path else page
    assert place.is_relative_to(ROOT)
    assert place.exists()
    if anchor and place.suffix == ".md":
        assert anchor in anchors(place.read_text(encoding="utf-8"))


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+\s+(.+?)\s*#*$", prose_with_code(text), flags=re.M)
    plain = (re.sub(r"[^\w\- ]", "", title.replace("`", "")) for title in titles)
    return {title.strip().lower().replace(" ", "-") for title in plain}


def prose_with_code(text: str) -> str:
    """The text without its fenced blocks."""
    for _, block in blocks(text):
        text = text.replace(block, "") if block else text
    return text


def test_commands_are_found_in_shell_blocks_alone():
    page = (
        "Run `nnfactory no` or\n```sh\n$ nnfactory plan --device jetson \\\n    --task det | head\n"
        "pip install nnfactory && nnfactory --version  # versions\n```\n"
        "```python\nnnfactory = 1\n```\n"
    )
    assert list(commands_of(page)) == [
        ["plan", "--device", "jetson", "--task", "det"],
        ["--version"],
    ]


@pytest.mark.parametrize(
    "words",
    [["plan", "--device", "jetson"], ["build", "--nope"], ["bild"], ["modules", "nope"]],
)
def test_command_that_does_not_exist_is_noticed(words: list[str]):
    with pytest.raises(click.UsageError):
        parse(words)


def test_command_that_is_right_is_parsed():
    parse("build --device jetson --task cls --classes goldfish,jellyfish --latency 5ms".split())
    parse("modules show fod31 --device jetson".split())
    parse("run cls-host-1a2b3c4d photo.jpg --json".split())
