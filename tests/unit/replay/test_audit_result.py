"""An audit's result, narrowed to a tenant and a time."""

from pipeline.ledger.findings import Finding
from pipeline.replay.audit import AuditResult
from pipeline.replay.comparison import Tally

RESULT = AuditResult(
    [
        Finding("missing", "acme", "c1", "early", 10),
        Finding("missing", "acme", "c2", "late", 20),
        Finding("missing", "globex", "c1", "another tenant", 20),
        Finding("no_dead_letter", "", "", "no tenant and no time"),
    ],
    {"acme": Tally(events=2), "globex": Tally(events=1)},
    read=4,
    dead_letters=1,
    dead_letters_are_whole=True,
)


def details(result: AuditResult) -> list[str]:
    return [finding.detail for finding in result.findings]


def test_selecting_nothing_keeps_everything() -> None:
    assert RESULT.select(None, None, None) == RESULT


def test_selected_tenant_keeps_its_findings_and_those_without_a_tenant() -> None:
    selected = RESULT.select("acme", None, None)

    assert details(selected) == ["early", "late", "no tenant and no time"]
    assert selected.tallies == {"acme": Tally(events=2)}
    assert (selected.read, selected.dead_letters) == (4, 1)


def test_selected_time_excludes_its_end_and_keeps_findings_without_a_time() -> None:
    selected = RESULT.select(None, 10, 20)

    assert details(selected) == ["early", "no tenant and no time"]
    assert selected.tallies == RESULT.tallies
