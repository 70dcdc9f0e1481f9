"""Every process connects to a secured broker, and reports wrong credentials clearly."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.catalog.tenants import load_tenants
from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.server import Emulator, running
from pipeline.events.times import parse_time
from pipeline.ledger import open_ledger, reports, upgrade
from tests.kafka import run as runs
from tests.kafka.run import Run, metric, readiness
from tests.kafka.secured import PASSWORD, Secured, running_secured
from tests.support.certificates import Authority
from tests.support.events import resolved
from tests.support.identity import CLIENT_ID, CLIENT_SECRET, Provider, identity_provider

A_WEEK_LATER = parse_time("2026-05-10T00:00:00Z") / 1000
pytestmark = pytest.mark.xdist_group("secured")  # one process starts the broker
SECRETS = (PASSWORD, "hunter2")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with running_secured(tmp_path_factory.mktemp("secured")) as broker:
        yield broker


@pytest.fixture
def run(secured: Secured, tmp_path: Path) -> Iterator[Run]:
    """Return a run over SASL_SSL. The test itself reads and writes over the open listener."""
    with runs.without_topics(secured.plain, tmp_path) as run:
        # At `debug` the libraries log everything, and even then no line may have a secret.
        run.env |= {**secured.env["SASL_SSL"], "RESMETER_LOG__LEVEL": "debug"}
        upgrade(run.env["RESMETER_LEDGER__URL"])
        yield run


@pytest.fixture
def stripe(tmp_path: Path) -> Iterator[tuple[Emulator, dict[str, str]]]:
    """Return an emulator with a customer, and the settings for it."""
    tenants = tmp_path / "resmeter.toml"
    tenants.write_text('[tenants.acme]\nstripe_customer = "cus_acme"\n')
    emulator = Emulator(clock=Clock(A_WEEK_LATER))
    emulator.state.prepare(["cus_acme"], load_tenants(tenants).event_names, 0)
    with running(emulator) as base_url:
        yield (
            emulator,
            {"RESMETER_CONFIG": str(tenants), "RESMETER_STRIPE__BASE_URL": base_url},
        )


def test_every_process_connects_over_sasl_ssl_and_conversations_are_billed(
    run: Run, tmp_path: Path, stripe: tuple[Emulator, dict[str, str]]
) -> None:
    emulator, run_env = stripe
    run.env |= run_env
    run.done("topics", "create")
    worker, sink = run.start("worker"), run.start("sink")
    run.done("produce", _file(tmp_path, 3))

    run.until_decided(worker, 9)
    sink.wait_until(lambda: _delivered(run) == 3, 30, "everything is billed")

    assert [entry["sum"] for entry in emulator.state.sums()["sums"]] == [3]
    assert run.resmeter("check").stderr.count("ok ") == 6
    for process in (worker, sink):
        assert not any(secret in process.log() for secret in SECRETS)


def test_processes_with_a_password_and_with_certificates_share_the_work(
    run: Run, secured: Secured, tmp_path: Path, stripe: tuple[Emulator, dict[str, str]]
) -> None:
    emulator, run_env = stripe
    by_password, by_certificate = secured.env["SASL_PLAINTEXT"], secured.env["SSL"]
    run.env |= {**run_env, "RESMETER_KAFKA__SASL_USERNAME": "", "RESMETER_KAFKA__SSL_CA_FILE": ""}
    run.done("topics", "create", **by_certificate)
    workers = [run.start("worker", **by_password), run.start("worker", **by_certificate)]
    sink = run.start("sink", **by_certificate)
    for worker in workers:
        port = run.port(worker)
        worker.wait_until(lambda port=port: readiness(port)[0] == 200, 60, "it has partitions")  # type: ignore[misc]
    run.done("produce", _file(tmp_path, 20), **by_password)

    sink.wait_until(lambda: _delivered(run) == 20, 60, "everything is billed")

    assert [entry["sum"] for entry in emulator.state.sums()["sums"]] == [20]
    for worker in workers:
        assert metric(run.port(worker), "resmeter_events_total") > 0
        assert not any(secret in worker.log() for secret in SECRETS)


def test_every_command_reports_a_wrong_password_and_nothing_is_lost(
    run: Run, tmp_path: Path
) -> None:
    run.done("topics", "create")
    run.produce(resolved("c0"))

    for result in _tried(run, _file(tmp_path, 1), RESMETER_KAFKA__SASL_PASSWORD="hunter2-wrong"):
        assert result.returncode == 2
        assert "SASL authentication error: Authentication failed" in _words(result)
        assert "SASL_PASSWORD" in result.stderr
        assert "Traceback" not in result.stderr
        assert "hunter2" not in result.stderr

    worker = run.start("worker")
    run.until_decided(worker, 3)
    assert len(run.usage_records()) == 1


def test_a_broker_with_a_certificate_of_an_unknown_ca_is_rejected(run: Run, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger")

    for result in _tried(run, None, RESMETER_KAFKA__SSL_CA_FILE=str(stranger.ca)):
        assert result.returncode == 2
        assert "broker certificate could not be verified" in _words(result)
        assert "SSL_CA_FILE" in result.stderr
        assert "Traceback" not in result.stderr


def test_an_unknown_client_certificate_and_a_wrong_key_password_are_reported(
    run: Run, secured: Secured, tmp_path: Path
) -> None:
    ours, key = Authority(tmp_path / "stranger").issue("meter")
    strange = {"RESMETER_KAFKA__SSL_CERT_FILE": str(ours), "RESMETER_KAFKA__SSL_KEY_FILE": str(key)}
    wrong = {"RESMETER_KAFKA__SSL_KEY_PASSWORD": "hunter2-wrong"}
    listener = secured.env["SSL"]

    with ThreadPoolExecutor() as pool:
        unknown = pool.submit(run.resmeter, "topics", "check", **{**listener, **strange})
        unopened = pool.submit(run.resmeter, "topics", "check", **{**listener, **wrong})

    assert unknown.result().returncode == unopened.result().returncode == 2
    assert "alert certificate required" in unknown.result().stderr
    assert "ssl.key.location failed" in unopened.result().stderr
    assert "Traceback" not in unknown.result().stderr + unopened.result().stderr
    assert "hunter2" not in unopened.result().stderr


def test_every_process_connects_with_tokens_and_conversations_are_billed(
    run: Run, secured: Secured, tmp_path: Path, stripe: tuple[Emulator, dict[str, str]]
) -> None:
    emulator, run_env = stripe
    with identity_provider() as provider:
        run.env |= {**run_env, **_with_tokens(secured, provider)}
        run.done("topics", "create")
        worker, sink = run.start("worker"), run.start("sink")
        run.done("produce", _file(tmp_path, 3))

        run.until_decided(worker, 9)
        sink.wait_until(lambda: _delivered(run) == 3, 30, "everything is billed")

        assert run.resmeter("check").stderr.count("ok ") == 6
        for process in (worker, sink):
            process.stop()
            assert "hunter2" not in process.log()
            assert "eyJ" not in process.log()  # how a token begins
    assert [entry["sum"] for entry in emulator.state.sums()["sums"]] == [3]
    assert {tuple(form["scope"]) for form in provider.asked} == {("kafka",)}


def test_every_command_reports_a_client_that_the_identity_provider_does_not_know(
    run: Run, secured: Secured, tmp_path: Path
) -> None:
    with identity_provider() as provider:
        wrong = _with_tokens(secured, provider)
        wrong["RESMETER_KAFKA__SASL_OAUTH_CLIENT_SECRET"] = "hunter2-wrong"

        for result in _tried(run, _file(tmp_path, 1), **wrong):
            assert result.returncode == 2
            assert "answered 401 and gave no token for the client" in _words(result)
            assert "Traceback" not in result.stderr
            assert "hunter2" not in result.stderr


def _with_tokens(secured: Secured, provider: Provider) -> dict[str, str]:
    """Return the settings for SASL_PLAINTEXT with tokens of the provider."""
    return {
        **secured.env["SASL_PLAINTEXT"],
        "RESMETER_KAFKA__SASL_MECHANISM": "OAUTHBEARER",
        "RESMETER_KAFKA__SASL_USERNAME": "",
        "RESMETER_KAFKA__SASL_PASSWORD": "",
        "RESMETER_KAFKA__SSL_CA_FILE": "",
        "RESMETER_KAFKA__SASL_OAUTH_TOKEN_URL": provider.url,
        "RESMETER_KAFKA__SASL_OAUTH_CLIENT_ID": CLIENT_ID,
        "RESMETER_KAFKA__SASL_OAUTH_CLIENT_SECRET": CLIENT_SECRET,
        "RESMETER_KAFKA__SASL_OAUTH_SCOPE": "kafka",
    }


def _file(folder: Path, conversations: int) -> str:
    """Return a file of events that bill this many resolutions."""
    path = folder / "events.ndjson"
    events = [event for number in range(conversations) for event in resolved(f"c{number}")]
    path.write_bytes(b"\n".join(value or b"" for _, value, _ in events))
    return str(path)


def _words(result: "subprocess.CompletedProcess[str]") -> str:
    """Return standard error without line breaks: `resmeter check` wraps its lines."""
    return " ".join(result.stderr.split())


def _tried(run: Run, events: str | None, **env: str) -> list[subprocess.CompletedProcess[str]]:
    commands: list[tuple[str, ...]] = [("worker",), ("sink",)]
    if events is not None:
        commands += [("topics", "create"), ("produce", events), ("check",)]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda command: run.resmeter(*command, **env), commands))


def _delivered(run: Run) -> int:
    ledger = open_ledger(run.env["RESMETER_LEDGER__URL"])
    try:
        return sum(row.delivered for row in reports.usage(ledger))
    finally:
        ledger.close()
