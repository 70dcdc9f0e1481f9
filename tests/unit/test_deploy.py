"""The files in `deploy/` agree with the settings, with the commands, and with each other."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.catalog.tenants import load_tenants
from pipeline.cli import COMMANDS
from pipeline.config import describe_settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
YAML = sorted([*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")])
TENANT_FILE = DEPLOY / "resmeter.toml"
ONE_SHOT = {"topics", "ledger"}
SETTINGS = {variable for variable, _, _ in describe_settings()}


def compose() -> dict[str, Any]:
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(document, dict)
    return document


def services() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from compose()["services"].items()


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", YAML, ids=relative)
def test_yaml_parses(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize(
    "path",
    [*YAML, DEPLOY / "Dockerfile", *sorted(DEPLOY.rglob("*.toml")), *DOCS],
    ids=relative,
)
def test_every_variable_that_a_file_names_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"\bRESMETER_[A-Z0-9_]*[A-Z0-9]", path.read_text()))

    assert named - SETTINGS == set()


def test_the_services_have_valid_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, service in services():
        environment: dict[str, object] = service.get("environment", {})
        for variable in SETTINGS:
            monkeypatch.delenv(variable, raising=False)
        for variable, value in environment.items():
            if variable in SETTINGS:
                # If a variable is not set, compose uses the default after `:-`.
                default = re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", str(value))
                monkeypatch.setenv(variable, default)

        assert load_settings(), name


def test_every_mount_exists() -> None:
    volumes = compose()["volumes"]
    for name, service in services():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {mount}"
            else:
                assert source in volumes, f"{name}: {mount}"


def test_images_are_pinned_and_our_image_is_built() -> None:
    for name, service in services():
        _, _, tag = service["image"].rpartition(":")

        assert tag
        assert tag != "latest", name
        if tag == "local":
            context = DEPLOY / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()


def test_our_services_run_commands_that_exist() -> None:
    ours = {name: s["command"][0] for name, s in services() if s["image"] == "resmeter:local"}

    assert set(ours) >= {"emulator", "topics", "ledger", "worker", "sink"}
    assert set(ours.values()) <= set(COMMANDS)


def test_only_services_that_keep_running_have_a_health_check_and_others_must_complete() -> None:
    known = dict(services())
    for name, service in known.items():
        assert ("healthcheck" in service) == (name not in ONE_SHOT), name
        for other, dependency in service.get("depends_on", {}).items():
            must_complete = dependency["condition"] == "service_completed_successfully"
            assert must_complete == (other in ONE_SHOT), f"{name} waits for {other}"
            assert other in known


def test_ports_are_published_to_this_machine_only() -> None:
    for name, service in services():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_prometheus_scrapes_the_ports_that_worker_and_sink_serve() -> None:
    document = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    scraped = {
        (name, discovery["port"])
        for job in document["scrape_configs"]
        for discovery in job["dns_sd_configs"]
        for name in discovery["names"]
    }
    settings = load_settings()

    assert scraped == {("worker", settings.worker.http_port), ("sink", settings.sink.http_port)}
    for name, port in scraped:
        environment = compose()["services"][name]["environment"]
        assert environment[f"RESMETER_{name.upper()}__HTTP_HOST"] == "0.0.0.0"
        assert environment[f"RESMETER_{name.upper()}__HTTP_PORT"] == port


def test_dockerignore_allows_every_path_that_the_image_copies() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [line.split()[1] for line in lines if re.match(r"COPY (?!--from)", line)]

    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in allowed
    assert any("--require-hashes" in line for line in lines)
    assert "USER resmeter" in lines


def test_health_checks_use_the_port_that_the_service_listens_on() -> None:
    for name, service in services():
        if service["image"] != "resmeter:local" or "healthcheck" not in service:
            continue
        test = service["healthcheck"]["test"]
        settings = service.get("environment", {})
        port = settings.get(f"RESMETER_{name.upper()}__HTTP_PORT", 12111)

        assert test[:4] == ["CMD", "resmeter", "health", "--port"], name
        assert test[4] == str(port), name
        if name == "emulator":
            assert test[4] == service["command"][service["command"].index("--port") + 1]


def test_the_tenant_file_is_valid_and_has_the_main_keys() -> None:
    table = tomllib.loads(TENANT_FILE.read_text())

    tenants = load_tenants(TENANT_FILE)

    assert set(table) == {"policy", "policy_files", "meters", "tenants"}
    assert set(tenants.customers) == set(table["tenants"])
    assert tenants.timeline_for("acme").versions[-1].name == "acme"
    assert tenants.event_name_for("resolution") == "resmeter_resolution"


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(
        re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / "docs" / "operate" / "threats.md").read_text())
    )
    existing = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }

    assert named
    assert named - existing == set()
