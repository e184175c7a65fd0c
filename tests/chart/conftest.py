"""The chart as Helm 4 renders it: its own Go code, through the wheel helm-python-sdk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts" / "lengthwise"

Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def chart_folder() -> Path:
    return CHART


@pytest.fixture(scope="session")
def render() -> Render:
    """A function from values to the objects that `helm install` would make of them."""

    def objects(
        values: dict[str, Any] | None = None, *, name: str = "lw", namespace: str = "llm"
    ) -> list[dict[str, Any]]:
        with helm_python.Chart.load(CHART) as chart:
            chart.validate_schema(values or {})
            texts = chart.render(values or {}, name=name, namespace=namespace)
        return [
            document
            for path, text in sorted(texts.items())
            if not path.endswith("NOTES.txt")
            for document in yaml.safe_load_all(text)
            if document
        ]

    return objects
