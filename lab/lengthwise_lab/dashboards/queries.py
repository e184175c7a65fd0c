"""Read the Grafana dashboards of the chart, and send their queries to a Prometheus.

Called by pictures.py, and by the tests that send every query to a real Prometheus.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

#: Grafana's value of `$__rate_interval` at the 15 s interval of the chart's monitors.
RATE_INTERVAL = "1m"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One query of a panel. `legend` may contain Grafana's `{{label}}`."""

    expr: str
    legend: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel. `kind` is Grafana's (`timeseries`, `stat`)."""

    title: str
    kind: str
    unit: str
    targets: list[Target]
    right: list[tuple[str, str]]  #: (pattern of legends, unit) of the series on the right axis.
    dashed: list[str]  #: Patterns of the legends of dashed series.
    colors: dict[str, str]  #: Legend -> Grafana's name of its fixed colour.
    stacked: bool
    top: float | None
    row: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series of a result: `times`, seconds since the epoch, and as many `values`."""

    labels: dict[str, str]
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def name(self, legend: str) -> str:
        """Return the legend with the labels inserted."""
        if legend == "__auto":
            return ", ".join(f"{k}={v}" for k, v in self.labels.items() if k != "__name__")
        return re.sub(r"{{\s*(\w+)\s*}}", lambda m: self.labels.get(m[1], ""), legend).strip()


def read(path: Path) -> tuple[str, list[Panel]]:
    """Read a dashboard. Return its title and its panels in their order."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    panels, row = [], ""
    for raw in dashboard["panels"]:
        if raw["type"] == "row":
            row = raw["title"]
            continue
        defaults = raw["fieldConfig"]["defaults"]
        custom = defaults.get("custom", {})
        right, dashed, colors = [], [], {}
        for override in raw["fieldConfig"]["overrides"]:
            pattern = override["matcher"]["options"]
            properties = {p["id"]: p["value"] for p in override["properties"]}
            if properties.get("custom.axisPlacement") == "right":
                right.append((pattern, properties.get("unit", defaults["unit"])))
            if "custom.lineStyle" in properties:
                dashed.append(pattern)
            if "color" in properties:
                colors[pattern] = properties["color"]["fixedColor"]
        panels.append(
            Panel(
                title=raw["title"],
                kind=raw["type"],
                unit=defaults["unit"],
                targets=[Target(expr=t["expr"], legend=t["legendFormat"]) for t in raw["targets"]],
                right=right,
                dashed=dashed,
                colors=colors,
                stacked="stacking" in custom,
                top=defaults.get("max"),
                row=row,
            )
        )
    return str(dashboard["title"]), panels


def expand(
    expr: str, *, span_s: float, service: str = ".+", rate_interval: str = RATE_INTERVAL
) -> str:
    """Insert Grafana's variables into a query. `service`: a pattern of names."""
    filled = expr.replace("$__rate_interval", rate_interval).replace("$service", service)
    return filled.replace("$__range", f"{max(1, round(span_s))}s")


class Prometheus:
    """A client of the two query endpoints of a Prometheus."""

    def __init__(self, url: str) -> None:
        """Create a client. `url`: the root."""
        self._http = httpx.Client(base_url=url, timeout=30)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def now(self, expr: str) -> list[Series]:
        """Return the value of `expr` now.

        Raises:
            ValueError: Prometheus refuses the query; the message is that of Prometheus.
        """
        return [
            Series(labels=r["metric"], times=[float(r["value"][0])], values=[float(r["value"][1])])
            for r in self._query("query", {"query": expr})
        ]

    def over(self, expr: str, *, start_s: float, end_s: float, step_s: float) -> list[Series]:
        """Return the values of `expr` between two times, seconds since the epoch.

        Raises:
            ValueError: Prometheus refuses the query; the message is that of Prometheus.
        """
        parameters = {"query": expr, "start": start_s, "end": end_s, "step": step_s}
        return [
            Series(
                labels=r["metric"],
                times=[float(t) for t, _ in r["values"]],
                values=[float(v) for _, v in r["values"]],
            )
            for r in self._query("query_range", parameters)
        ]

    def _query(self, endpoint: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        response = self._http.post(f"/api/v1/{endpoint}", data=parameters)
        if response.is_server_error:  # a Prometheus that starts answers in plain text
            response.raise_for_status()
        answer = response.json()
        if answer["status"] != "success":
            raise ValueError(f"{answer.get('error')} in {parameters['query']}")
        return list(answer["data"]["result"])
