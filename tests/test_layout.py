from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    p
    for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
    if p.exists()
)


def test_no_source_root_hides_the_standard_library() -> None:
    roots = [ROOT, *(p for p in ROOT.iterdir() if p.is_dir() and p.name[0] != ".")]
    names = {p.stem for r in roots for p in r.glob("*.py")}
    names |= {p.parent.name for r in roots for p in r.glob("*/__init__.py")}
    assert not names & sys.stdlib_module_names


def test_every_package_is_shipped_typed_and_held_by_the_layers() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    packages = sorted(p.parent for p in ROOT.glob("*/lengthwise_*/__init__.py"))
    shipped = config["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(shipped) == sorted(str(p.relative_to(ROOT)) for p in packages)
    assert sorted(config["importlinter"]["root_packages"]) == sorted(p.name for p in packages)
    assert all((p / "py.typed").exists() for p in packages)


#: What a newcomer can still survey: modules of a folder, and lines of a module.
MOST_MODULES, MOST_LINES = 20, 330
FOLDERS = sorted({p.parent for p in ROOT.glob("*/lengthwise_*/**/*.py")})

#: A test module may be longer than a module: its tests are read one at a time.
MOST_TEST_LINES = 600
TEST_FOLDERS = sorted({p.parent for p in (ROOT / "tests").rglob("*.py")})


@pytest.mark.parametrize(
    ("folder", "most_lines"),
    [
        pytest.param(folder, most_lines, id=str(folder.relative_to(ROOT)))
        for folders, most_lines in ((FOLDERS, MOST_LINES), (TEST_FOLDERS, MOST_TEST_LINES))
        for folder in folders
    ],
)
def test_a_folder_has_few_modules_and_a_module_few_lines(folder: Path, most_lines: int) -> None:
    # If this breaks: a folder or a module has become more than one idea; split it by subject.
    modules = sorted(folder.glob("*.py"))
    lines = {p.name: len(p.read_text(encoding="utf-8").splitlines()) for p in modules}
    assert 0 < len(modules) <= MOST_MODULES
    assert {name: count for name, count in lines.items() if count > most_lines} == {}


def test_the_size_of_every_package_is_checked() -> None:
    packages = [p.parent for p in ROOT.glob("*/lengthwise_*/__init__.py")]
    assert len(packages) > 5
    assert set(packages) <= set(FOLDERS)
    assert ROOT / "tests/queue_service/store" in TEST_FOLDERS


def test_no_test_folder_is_a_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("page", PAGES, ids=[str(p.relative_to(ROOT)) for p in PAGES])
def test_every_relative_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_make_target_that_a_page_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    code = {page: re.findall(r"`make ([a-z-]+)", page.read_text("utf-8")) for page in PAGES}
    used = {target for found in code.values() for target in found}
    assert {"check", "test", "test-fast"} <= used
    assert used - targets == set()
