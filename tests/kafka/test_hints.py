"""`resmeter produce` warns of misspelt names, and sends the event all the same."""

from pathlib import Path

import orjson

from tests.kafka.run import Run, lines_named
from tests.unit.events.test_hints import EVENT


def test_produce_warns_once_of_a_misspelt_member_and_names_a_missing_one(
    run: Run, tmp_path: Path
) -> None:
    lines = [
        EVENT | {"id": f"m{n}", "data": {"kind": "answer", "billabel": False}} for n in range(3)
    ]
    lines.append({**{k: v for k, v in EVENT.items() if k != "tenantid"}, "tenantId": "acme"})
    file = tmp_path / "events.ndjson"
    file.write_bytes(b"\n".join(map(orjson.dumps, lines)))

    result = run.resmeter("produce", str(file))

    told = lines_named(result.stderr)
    assert told[0] == {"line": 1, "warning": "data.billabel: is ignored; did you mean 'billable'?"}
    assert [line["line"] for line in told] == [1, 4]
    assert "did you mean 'tenantid'?" in told[1]["detail"]
    assert result.returncode == 3
    assert len(run.messages("EVENTS")) == 3
