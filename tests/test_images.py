"""Each image contains the packages that its program imports, and no others of this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Package -> its folder.
PACKAGES = {path.name: path for path in ROOT.glob("*/lengthwise_*") if path.is_dir()}


def imported(package: str) -> set[str]:
    """The packages of this repository that one needs, including itself."""
    found, todo = set[str](), {package}
    while todo:
        found.add(each := todo.pop())
        for path in PACKAGES[each].rglob("*.py"):
            names = re.findall(r"^\s*(?:from|import) (lengthwise_\w+)", path.read_text(), re.M)
            todo |= set(names) - found
    return found


def stages(dockerfile: Path) -> dict[str, str]:
    """The text of each build stage, by name."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", dockerfile.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(
    ("folder", "stage", "package"),
    [
        ("operator", "build", "lengthwise_operator"),
        ("queue_service", "build-queue", "lengthwise_queue"),
        ("queue_service", "build-worker", "lengthwise_worker"),
        ("predictor_service", "build", "lengthwise_predictor"),
        ("predictor_service", "build-cuda", "lengthwise_predictor"),
    ],
    ids=["operator", "queue", "worker", "predictor", "predictor-cuda"],
)
def test_an_image_contains_exactly_the_packages_that_its_program_imports(
    folder: str, stage: str, package: str
) -> None:
    text = stages(ROOT / folder / "Dockerfile")[stage]
    copied = re.findall(r"^COPY (\w+)/(lengthwise_\w+) \1/\2$", text, re.MULTILINE)
    assert {name for _, name in copied} == imported(package)
    assert all(PACKAGES[name].parent.name == root for root, name in copied)


def test_the_packages_are_those_of_the_distribution() -> None:
    assert {"lengthwise_contract", "lengthwise_store", "lengthwise_worker"} <= set(PACKAGES)
    assert imported("lengthwise_worker") == {
        *("lengthwise_contract", "lengthwise_store", "lengthwise_worker")
    }
