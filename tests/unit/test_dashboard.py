"""The Grafana dashboard shows every series of `pipeline.metrics`, and only those."""

import itertools
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from pipeline.metrics import (
    DELIVERY_RESULTS,
    CatalogMetrics,
    ProcessesMetrics,
    RuntimeMetrics,
    SinkMetrics,
    WorkerMetrics,
)

GRAFANA = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
QUESTIONS = ["Are we behind?", "Are we losing?", "Are we right?", "Is it us or Stripe?"]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
# Prometheus adds `instance`, `job` and often `cluster` to each series; a histogram's buckets have `le`.
ADDED_LABELS = {"cluster", "instance", "job", "le"}
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTED = 'cluster=~"$cluster",job=~"$job"'


@cache
def dashboard() -> dict[str, Any]:
    document = json.loads((GRAFANA / "dashboards" / "resmeter.json").read_text("utf-8"))
    assert isinstance(document, dict)
    return document


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def label_of(panel: dict[str, Any]) -> str:
    return f"{panel['id']}: {panel['title']}"


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def named(text: str) -> set[str]:
    return set(re.findall(r"\bresmeter_\w+", text))


@cache
def labels_of_series() -> dict[str, set[str]]:
    """Return the labels of every series, by the name of the series."""
    series: dict[str, set[str]] = {}
    kinds = (WorkerMetrics, CatalogMetrics, ProcessesMetrics, SinkMetrics)
    runtime = RuntimeMetrics(CollectorRegistry(), "worker")
    for metrics in (runtime, *(kind(CollectorRegistry()) for kind in kinds)):
        for metric in vars(metrics).values():
            if isinstance(metric, MetricWrapperBase):
                for suffix in SUFFIXES[str(metric._type)]:
                    series[metric._name + suffix] = set(metric._labelnames)
    return series


def families() -> list[set[str]]:
    """Return the series of each metric. A histogram has three; a dashboard needs one of them."""
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    CatalogMetrics(registry)
    ProcessesMetrics(registry)
    RuntimeMetrics(registry, "worker")
    SinkMetrics(registry)
    return [
        {metric.name + suffix for suffix in SUFFIXES[metric.type]} for metric in registry.collect()
    ]


def test_every_series_on_a_panel_exists() -> None:
    assert panels()
    for panel in panels():
        for expression in expressions(panel):
            assert named(expression), label_of(panel)
            assert named(expression) <= set(labels_of_series()), label_of(panel)


def test_every_series_is_on_a_panel() -> None:
    on_panels = set().union(*(named(e) for panel in panels() for e in expressions(panel)))

    assert families()
    assert [family for family in families() if not family & on_panels] == []


def test_every_label_on_a_panel_belongs_to_its_series() -> None:
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            known = set().union(*(labels_of_series()[name] for name in named(expression)))
            grouped = [labels.split(",") for labels in re.findall(r"by \(([^)]*)\)", expression)]
            matched = re.findall(r"(\w+)(?:=~|!~|!=|=)\"", expression)
            in_legend = re.findall(r"{{(\w+)}}", target["legendFormat"])

            used = {name.strip() for name in (*itertools.chain(*grouped), *matched, *in_legend)}
            assert used <= known | ADDED_LABELS, label_of(panel)


def test_delivery_results_on_panels_exist() -> None:
    selectors = re.findall(r'result=~?\\?"([^"\\]+)', json.dumps(dashboard()))

    assert selectors
    results = {result for selector in selectors for result in selector.split("|")}
    assert results <= set(DELIVERY_RESULTS)


def test_the_four_questions_follow_the_summary_row_in_order() -> None:
    rows = [panel for panel in dashboard()["panels"] if panel["type"] == "row"]
    first = min(panel["gridPos"]["y"] for panel in rows)
    top = [panel for panel in panels() if panel["gridPos"]["y"] < first]

    assert [row["title"] for row in sorted(rows, key=lambda row: row["gridPos"]["y"])] == QUESTIONS
    assert [sorted(set().union(*map(named, expressions(panel)))) for panel in top] == [
        ["resmeter_pending_money"],
        ["resmeter_pending_age_seconds"],
        ["resmeter_due_unsettled"],
        ["resmeter_rejected_total"],
        ["resmeter_usage_records_refused_total"],
        ["resmeter_deliveries_halted", "resmeter_deliveries_held"],
    ]
    assert {panel["type"] for panel in top} == {"stat"}


def test_ledger_gauges_are_not_summed_over_sinks() -> None:
    of_ledger = {
        "resmeter_pending_units",
        "resmeter_pending_money",
        "resmeter_pending_age_seconds",
        "resmeter_pending_usage_age_seconds",
        "resmeter_unanswered_age_seconds",
        "resmeter_carried_units",
        "resmeter_parked_units",
        "resmeter_owed_units",
        "resmeter_owed_money",
        "resmeter_deliveries_rejected",
        "resmeter_deliveries_uncertain",
        "resmeter_deliveries_altered",
    }
    for panel in panels():
        for expression in expressions(panel):
            for name in named(expression) & of_ledger:
                assert re.search(rf"(max|min)( by \([^)]*\) )?\({name}\b", expression), label_of(
                    panel
                )


@pytest.mark.parametrize("panel", panels(), ids=label_of)
def test_each_panel_has_a_title_a_description_and_a_unit(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]

    assert panel["title"]
    assert panel["description"].endswith(".")
    assert defaults["unit"]
    assert defaults["thresholds"]["steps"][0]["value"] is None
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_a_viewer_chooses_the_data_source() -> None:
    path = GRAFANA / "provisioning" / "datasources" / "prometheus.yml"
    provisioned = yaml.safe_load(path.read_text("utf-8"))["datasources"]

    source, *variables = dashboard()["templating"]["list"]
    users = [*panels(), *(target for panel in panels() for target in panel["targets"]), *variables]
    assert (source["name"], source["type"], source["query"]) == (
        "datasource",
        "datasource",
        provisioned[0]["type"],
    )
    assert all(user["datasource"] == DATA_SOURCE for user in users)


def test_every_variable_is_defined() -> None:
    used = set(re.findall(r"\$(?!__)\{?(\w+)", json.dumps(dashboard()["panels"])))
    variables = dashboard()["templating"]["list"]

    assert used == {variable["name"] for variable in variables}
    for variable in variables[1:]:
        (series,) = named(variable["definition"])
        assert variable["name"] in labels_of_series()[series] | ADDED_LABELS


def test_every_series_is_filtered_by_cluster_and_job() -> None:
    """Without the label `cluster`, `.*` matches its absence."""
    for panel in panels():
        for expression in expressions(panel):
            assert len(named(expression)) <= expression.count(SELECTED), label_of(panel)
            assert re.findall(r"\bresmeter_\w+(?!\w|\{)", expression) == [], label_of(panel)
    of_all = {v["name"]: v.get("allValue") for v in dashboard()["templating"]["list"]}
    assert of_all["cluster"] == of_all["job"] == ".*"


def test_series_by_tenant_are_filtered_by_the_selected_tenant() -> None:
    for panel in panels():
        for expression in expressions(panel):
            of_tenants = any("tenant" in labels_of_series()[name] for name in named(expression))
            assert ('tenant=~"$tenant"}' in expression) == of_tenants, label_of(panel)


def test_panel_ids_are_unique() -> None:
    ids = [panel["id"] for panel in dashboard()["panels"]]

    assert len(set(ids)) == len(ids)


def test_panels_do_not_overlap_and_fit_the_grid() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        area = panel["gridPos"]
        assert area["x"] >= 0
        assert area["x"] + area["w"] <= 24, label_of(panel)
        columns = range(area["x"], area["x"] + area["w"])
        rows = range(area["y"], area["y"] + area["h"])
        for cell in itertools.product(columns, rows):
            assert cell not in taken, f"{label_of(panel)} covers {taken[cell]}"
            taken[cell] = label_of(panel)
