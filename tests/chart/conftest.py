"""Render the chart with Helm 4's own Go code, from the wheel helm-python-sdk."""

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
    """render(values) -> the objects that `helm install` would create."""

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
