"""The lock: every image installs a part of it, with hashes, and pyproject.toml allows it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PARTS = sorted((ROOT / "requirements").glob("*.txt"))

_PIN = re.compile(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==([^ ;]+)", re.MULTILINE)

#: Not in the lock: its builds differ by machine.
UNLOCKED = {"torch"}


def pins(path: Path) -> dict[str, set[str]]:
    """Package -> its versions; one that differs by Python's version has several."""
    found: dict[str, set[str]] = {}
    for name, version in _PIN.findall(path.read_text()):
        found.setdefault(name, set()).add(version)
    return found


LOCK = pins(ROOT / "requirements.lock")


@pytest.mark.parametrize("path", [ROOT / "requirements.lock", *PARTS], ids=lambda p: p.name)
def test_a_lock_has_a_hash_for_every_package_and_names_no_host(path: Path) -> None:
    text = path.read_text()
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(packages) > 10
    assert [p.splitlines()[0] for p in packages if "--hash=sha256:" not in p] == []
    assert "://" not in text
    assert "index-url" not in text


@pytest.mark.parametrize("path", PARTS, ids=lambda p: p.name)
def test_an_image_installs_the_versions_that_the_tests_ran_with(path: Path) -> None:
    assert {name: v for name, v in pins(path).items() if not v <= LOCK.get(name, set())} == {}


def test_every_image_installs_from_its_part_of_the_lock() -> None:
    installed = []
    for dockerfile in sorted(ROOT.glob("*/Dockerfile")):
        text = dockerfile.read_text()
        installs = re.findall(r"pip --python \S+ install (.*)$", text, re.MULTILINE)
        assert all(i == "--no-deps ." or i.startswith("--require-hashes -r ") for i in installs)
        installed += re.findall(r"--require-hashes -r (\S+)$", text, re.MULTILINE)
    assert sorted(installed) == [path.name for path in PARTS]


def test_pyproject_allows_every_locked_version() -> None:
    # If this breaks, a lower bound was raised: run `make lock`.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = ("operator", "queue", "worker", "predictor", "gpu", "local", "lab", "train", "dev")
    wanted = [*project["dependencies"], *(text for name in names for text in extras[name])]
    wrong = []
    for requirement in map(Requirement, wanted):
        name = requirement.name.lower().replace("_", "-")
        if name in {"lengthwise", *UNLOCKED}:
            continue
        if not all(requirement.specifier.contains(v) for v in LOCK.get(name, {"0"})):
            wrong.append(str(requirement))
    assert wrong == []
