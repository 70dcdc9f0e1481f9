"""`resmeter check` lists every problem, on lines that fit 80 columns."""

from tests.support.command import resmeter


def test_lines_fit_80_columns_and_continue_below_their_name(resmeter_env: dict[str, str]) -> None:
    # Wrong settings of Kafka, so that the check need not wait for a broker.
    env = {**resmeter_env, "RESMETER_KAFKA__SECURITY_PROTOCOL": "none", "RESMETER_SINKS": "1"}

    result = resmeter("check", env=env)

    assert (result.returncode, result.stdout) == (2, b"")
    lines = result.stderr.decode().splitlines()
    long_words = [word for line in lines for word in line.split() if len(word) > 60]
    assert [
        line for line in lines if len(line) > 80 and not set(line.split()) & {*long_words}
    ] == []
    assert all(line.startswith(("ok ", "!! ", "-  ", "   ", "error: ")) for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "!! ledger: there is no ledger at sqlite:///" in text
    assert "- broker: not checked, because its settings are wrong" in text
