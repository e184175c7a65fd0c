"""The pages: links, commands, paths and variables that they quote exist."""

from __future__ import annotations

import importlib
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from lengthwise_cli.main import build

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[a-z]*/README.md")})
each_page = pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])

#: Folders at the root whose paths the pages quote.
FOLDERS = sorted(p.name for p in ROOT.iterdir() if p.is_dir() and p.name[0] != ".")

#: A page that warns about this file names it, although it does not exist.
FORBIDDEN = {"operator/__init__.py"}

#: Records of what was: they may name a module that has another name today.
HISTORY = {ROOT / "docs/research/experiments.md", ROOT / "CHANGELOG.md"}


def settings_of(package: str) -> set[str]:
    """The fields of a process's settings, one environment variable each."""
    module = importlib.import_module(f"{package}.settings")
    (found,) = [
        value
        for value in vars(module).values()
        if getattr(value, "__module__", "") == module.__name__ and hasattr(value, "model_fields")
    ]
    return set(found.model_fields)


SETTINGS = {
    "QUEUE": settings_of("lengthwise_queue"),
    "WORKER": settings_of("lengthwise_worker"),
    "PREDICTOR": settings_of("lengthwise_predictor"),
    "OPERATOR": settings_of("lengthwise_operator"),
}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def prose(page: Path) -> str:
    """The page without its code blocks and without the programs of its generated parts."""
    return re.sub(r"<!-- .*? -->", "", _FENCE.sub("", text(page)), flags=re.DOTALL)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives a page's headings."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        names.add(slug if not found[slug] else f"{slug}-{found[slug]}")
    return frozenset(names)


@each_page
def test_every_link_between_pages_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_of_docs_is_in_the_index() -> None:
    index = text(ROOT / "docs/README.md")
    pages = [str(p.relative_to(ROOT / "docs")) for p in PAGES if ROOT / "docs" in p.parents]
    missing = [
        name
        for name in pages
        if f"({name})" not in index and name != "README.md" and not name.startswith("decisions/")
    ]
    assert missing == []


def quoted(page: Path) -> list[str]:
    """Every shell command of a page, from its code blocks and from its inline code."""
    lines = []
    for language, block in _FENCE.findall(text(page)):
        if language == "sh":
            lines += block.replace("\\\n", " ").splitlines()
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]
    commands = []
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if word in {"&&", ";", "|"}:
                if command:
                    commands.append(command)
                command = []
            elif command or not re.match(r"[A-Z_]+=", word):
                command.append(word)
    return [shlex.join(command) for command in commands]


@cache
def command_line() -> Any:
    return typer.main.get_command(build())


def unknown(words: list[str]) -> str | None:
    """The first word or flag of `lengthwise WORDS` that the command line does not have."""
    command = command_line()
    while words and (words[0] in getattr(command, "commands", {})):
        command, words = command.commands[words[0]], words[1:]
    if getattr(command, "commands", None) and words and re.match(r"[a-z]", words[0]):
        return words[0]
    flags = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)} | {"--help"}
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    return next((flag for flag in given if flag not in flags), None)


@pytest.mark.slow  # imports every command
@each_page
def test_every_lengthwise_command_and_flag_exists(page: Path) -> None:
    wrong = []
    for command in quoted(page):
        words = shlex.split(command)
        if words[0] == "lengthwise" and (word := unknown(words[1:])):
            wrong.append(f"{word!r} of {command!r}")
    assert wrong == []


def is_module(name: str) -> bool:
    """Whether a dotted name is one of our modules, or a name in one. Nothing is imported."""
    package, *parts = name.split(".")
    [path] = ROOT.glob(f"*/{package}")
    for at, part in enumerate(parts):
        if (path / part).is_dir():
            path /= part
            continue
        module = path / f"{part}.py"
        if not module.exists():
            module, at = path / "__init__.py", at - 1
        rest = parts[at + 1 :]
        return not rest or (
            len(rest) == 1 and bool(re.search(rf"\b{re.escape(rest[0])}\b", module.read_text()))
        )
    return True


@each_page
def test_every_module_that_a_page_runs_or_names_exists(page: Path) -> None:
    if page in HISTORY:
        return
    names = {
        words[words.index("-m") + 1]
        for words in map(shlex.split, quoted(page))
        if words[0] == "python" and "-m" in words[:-1]
    }
    names |= set(re.findall(r"`(lengthwise_\w+(?:\.\w+)+)`", prose(page)))
    modules = {name for name in names if name.startswith("lengthwise_")}
    # Metrics begin with `lengthwise_` too, but have no dots.
    assert sorted(name for name in modules if not is_module(name)) == []


@each_page
def test_every_path_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    if page in HISTORY:
        return
    spans = re.findall(r"`((?:" + "|".join(FOLDERS) + r")/[^`\s:,;]*)`", text(page))
    spans = [
        re.sub(r"\{[^}]*\}", "*", span) for span in spans if not re.search(r"[<>A-Z]{3}", span)
    ]
    missing = [span for span in spans if not list(ROOT.glob(span.rstrip("/")))]
    assert set(missing) <= FORBIDDEN


@each_page
def test_every_environment_variable_of_a_process_is_a_setting(page: Path) -> None:
    wrong = [
        f"LENGTHWISE_{process}_{name}"
        for process, name in re.findall(
            r"LENGTHWISE_(QUEUE|WORKER|PREDICTOR|OPERATOR)_([A-Z]\w*)", text(page)
        )
        if name.lower() not in SETTINGS[process]
    ]
    assert wrong == []


def breakable(line: str) -> bool:
    """Whether a line has a space at which it could be wrapped: not one in code or in a link."""
    solid = re.sub(r"`[^`]*`|\]\([^)]*\)", lambda m: m[0].replace(" ", "_"), line)
    return " " in re.sub(r"^\s*([-*]|\d+\.)? *", "", solid)[:120]


@each_page
def test_prose_wraps_at_120_characters(page: Path) -> None:
    written = re.sub(r"<!-- \[\[\[cog.*?\[\[\[end\]\]\] -->", "", text(page), flags=re.DOTALL)
    written = re.sub(r"<!-- .*? -->", "", _FENCE.sub("", written))
    lines = written.splitlines()
    assert [x for x in lines if len(x) > 120 and not x.startswith("|") and breakable(x)] == []


def test_every_page_that_the_code_names_exists() -> None:
    sources = [
        path
        for folder in FOLDERS
        for suffix in ("py", "lua", "yaml", "json", "txt", "tpl")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
    ]
    named = {
        (str(source.relative_to(ROOT)), page)
        for source in sources
        for page in re.findall(
            r"\bdocs/[\w/-]+\.md\b", source.read_text(encoding="utf-8", errors="ignore")
        )
    }
    assert named
    assert sorted(x for x in named if not (ROOT / x[1]).exists()) == []
