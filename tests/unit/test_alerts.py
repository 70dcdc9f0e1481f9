"""The alarms in `deploy/alerts` are about series that exist, are tested, and have a page each."""

import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from pipeline.metrics import (
    MUST_STAY_ZERO,
    CatalogMetrics,
    ProcessesMetrics,
    RuntimeMetrics,
    SinkMetrics,
    WorkerMetrics,
)
from tests.support import promtool

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "deploy" / "alerts").glob("*.yml"))
RULE_TESTS = sorted((ROOT / "deploy" / "alerts" / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "operate" / "runbooks"
BASE = "https://github.com/resmeter/resmeter/blob/main/docs/operate/runbooks/"
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


@cache
def rules() -> list[dict[str, Any]]:
    return [
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def served() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessesMetrics(registry)
    RuntimeMetrics(registry, "worker")
    WorkerMetrics(registry)
    CatalogMetrics(registry)
    SinkMetrics(registry)
    return registry


def promtool_says(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = promtool.find()
    assert program is not None, f"promtool is not installed: {promtool.HOW_TO_INSTALL}"
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=150
    )


@pytest.mark.promtool
def test_prometheus_accepts_the_rules() -> None:
    checked = promtool_says("check", "rules", *RULES)

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.promtool
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_fire_when_they_must_and_only_then(path: Path) -> None:
    tested = promtool_says("test", "rules", path)

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_promtool_is_there_wherever_nobody_reads_the_closing_line() -> None:
    """Where it is missing, its tests are not collected: `tests/conftest.py` prints that."""
    assert promtool.find() is not None or not os.environ.get("CI"), promtool.HOW_TO_INSTALL


def test_every_alarm_has_a_test_in_which_it_fires() -> None:
    fire: set[str] = set()
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            fire |= {
                name
                for expression in test.get("promql_expr_test", [])
                for sample in expression["exp_samples"]
                for name in re.findall(r'alertname="(\w+)"', sample["labels"])
            }
            fire |= {
                each["alertname"] for each in test.get("alert_rule_test", []) if each["exp_alerts"]
            }

    assert fire == set(alerts())


def test_every_alarm_is_in_the_test_of_an_ordinary_day() -> None:
    ordinary = yaml.safe_load(
        (ROOT / "deploy" / "alerts" / "tests" / "healthy_test.yml").read_text()
    )

    assert ordinary["rule_files"] == ["../*.yml"]
    assert all(
        expression["exp_samples"] == []
        for test in ordinary["tests"]
        for expression in test["promql_expr_test"]
    )


def test_every_series_in_a_rule_exists() -> None:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    series = {
        family.name + suffix
        for family in served().collect()
        for suffix in suffixes.get(family.type, [""])
    }
    recorded = {rule["record"] for rule in rules() if "record" in rule}

    for rule in rules():
        named = set(re.findall(r"\bresmeter[_:][\w:]+", rule["expr"]))
        assert named
        assert named <= series | recorded, rule


def test_every_series_that_must_stay_at_zero_has_an_alarm() -> None:
    expressions = [rule["expr"] for rule in alerts().values()]

    assert [
        series for series in MUST_STAY_ZERO if not any(series in expr for expr in expressions)
    ] == []


def test_every_series_whose_help_says_above_zero_must_stay_at_zero() -> None:
    urgent = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in served().collect()
        if "Above 0," in family.documentation
    }

    assert urgent
    assert urgent <= {series.partition("{")[0] for series in MUST_STAY_ZERO}


def test_every_alarm_says_what_it_costs_and_how_urgent_it_is() -> None:
    for name, rule in alerts().items():
        assert name.startswith("Resmeter")
        assert rule["labels"]["severity"] in {"page", "ticket"}, name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        assert rule["annotations"]["runbook_url"] == f"{BASE}{name}.md"


def test_every_alarm_has_a_page_and_every_page_an_alarm() -> None:
    pages = {path.stem: path.read_text() for path in RUNBOOKS.glob("*.md")}

    assert set(pages) == set(alerts())
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n")
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS, name


def test_the_index_of_runbooks_has_every_alarm_with_its_severity() -> None:
    index = (RUNBOOKS.parent / "runbooks.md").read_text()
    listed = dict(re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\) \| (\w+) \|", index, re.MULTILINE))

    assert listed == {name: rule["labels"]["severity"] for name, rule in alerts().items()}
