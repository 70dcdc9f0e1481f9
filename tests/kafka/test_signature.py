"""A worker that requires signatures accepts what `resmeter produce --sign` writes."""

from pathlib import Path

import pytest

from pipeline.catalog.producers import load_keys
from pipeline.catalog.tenants import load_tenants
from pipeline.events.signature import verify
from tests.kafka.run import Run, lines_named, net
from tests.support.events import resolved

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def signing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a run where chat-eu may write for acme, and chat-us for another tenant."""
    file = tmp_path / "resmeter.toml"
    file.write_text("""
        producers.chat-eu = { secret_env = "CHAT_SECRET", tenants = ["acme"] }
        producers.chat-us = { secret_env = "CHAT_SECRET", tenants = ["bluejay"] }
    """)
    monkeypatch.setenv("CHAT_SECRET", SECRET)
    run.env |= {"CHAT_SECRET": SECRET}
    run.begin_catalog(file)
    return run


def _file(folder: Path, subject: str) -> str:
    path = folder / f"{subject}.ndjson"
    path.write_bytes(b"\n".join(value or b"" for _, value, _ in resolved(subject)))
    return str(path)


def test_produce_signs_every_record_and_rejects_events_that_the_key_may_not_write(
    signing: Run, tmp_path: Path
) -> None:
    keys = load_keys(load_tenants(Path(signing.env["RESMETER_CONFIG"])).producers)

    signing.done("produce", "--sign", "chat-eu", _file(tmp_path, "c1"))
    refused = signing.resmeter("produce", "--sign", "chat-us", _file(tmp_path, "c2"))
    unknown = signing.resmeter("produce", "--sign", "nobody", _file(tmp_path, "c3"))

    found = signing.messages("EVENTS")
    assert len(found) == 3
    for message in found:
        headers = list(message.headers.items())
        assert verify(keys, "acme", message.key, message.value, headers) is None
    assert refused.returncode == 3
    said = lines_named(refused.stderr)
    assert {entry["reason"] for entry in said} == {"not_authorized"}
    given = ("--catalog", "kafka", _file(tmp_path, "c4"))
    signing.done("produce", "--sign", "chat-eu", *given)
    by_catalog = signing.resmeter("produce", "--sign", "nobody", *given)
    unsigned = signing.resmeter("produce", *given)
    assert "the catalog has no key nobody that signs now" in " ".join(by_catalog.stderr.split())
    assert "the catalog names producers" in unsigned.stderr
    assert unknown.returncode == 2
    assert "has no producer 'nobody'" in unknown.stderr


def test_a_worker_accepts_only_records_that_are_signed_for_their_tenant(
    signing: Run, tmp_path: Path
) -> None:
    signing.done("produce", "--sign", "chat-eu", _file(tmp_path, "c1"))
    signing.done("produce", "--sign", "chat-us", "--unchecked", _file(tmp_path, "c2"))
    unsigned = signing.resmeter("produce", _file(tmp_path, "c3"))
    signing.done("produce", "--unchecked", _file(tmp_path, "c3"))
    worker = signing.start("worker")

    signing.until_decided(worker, 9)
    assert unsigned.returncode == 2
    assert "name a key with --sign" in unsigned.stderr

    assert net(signing.usage_records().values()) == {("acme", "c1"): {"resolution": 1}}
    letters = signing.messages("DEAD_LETTERS")
    assert [letter.headers["resmeter-reason"] for letter in letters] == [b"not_authorized"] * 6
