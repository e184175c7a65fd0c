"""The alerts on synthetic series, their runbooks and their values."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.alert_rules import alerts, needs_prometheus

RUNBOOKS = Path(__file__).parents[2] / "docs" / "operate" / "runbooks.md"


@pytest.mark.slow
@needs_prometheus
def test_every_alert_fires_when_it_should_and_not_otherwise() -> None:
    """The cases are in alerts_test.yaml, over synthetic series."""
    cases = Path(__file__).with_name("alerts_test.yaml")
    done = subprocess.run(
        [shutil.which("promtool") or "", "test", "rules", cases.name],
        cwd=cases.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", [rule["alert"] for rule in alerts()])
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    tests = yaml.safe_load(Path(__file__).with_name("alerts_test.yaml").read_text())["tests"]
    expected = [
        len(case["exp_alerts"])
        for test in tests
        for case in test["alert_rule_test"]
        if case["alertname"] == alert
    ]
    assert 0 in expected
    assert max(expected) > 0


@pytest.mark.parametrize("alert", [rule["alert"] for rule in alerts()])
def test_every_alert_has_its_section_in_the_runbooks(alert: str) -> None:
    assert re.search(rf"^##+ {alert}$", RUNBOOKS.read_text(), re.MULTILINE)


def test_the_values_of_an_alert_change_its_rule(render: Any) -> None:
    change = {"threshold": 42, "for": "3m", "severity": "page"}
    rules = {"LengthwiseBacklogLong": change, "LengthwiseWaitLong": {"enabled": False}}
    values = {"monitoring": {"prometheusRule": {"enabled": True, "rules": rules}}}
    (rule,) = [o for o in render(values) if o["kind"] == "PrometheusRule"]
    by_name = {r["alert"]: r for r in rule["spec"]["groups"][0]["rules"]}
    assert len(by_name) == len(alerts()) - 1
    got = by_name["LengthwiseBacklogLong"]
    assert got["expr"].endswith("> 42")
    assert (got["for"], got["labels"]["severity"]) == ("3m", "page")
    assert got["annotations"]["runbook_url"].endswith("#lengthwisebackloglong")


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ({"LengthwiseBaklog": {"enabled": False}}, "no alert of this chart"),
        ({"LengthwiseMetricsMissing": {"threshold": 1}}, "no threshold"),
    ],
    ids=["unknown", "no-threshold"],
)
def test_a_value_without_effect_is_refused(
    render: Any, rules: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(Exception, match=complaint):
        render({"monitoring": {"prometheusRule": {"enabled": True, "rules": rules}}})
