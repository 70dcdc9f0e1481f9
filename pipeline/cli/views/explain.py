"""Print the receipt of a conversation, and why it has no charge."""

import shutil
from collections.abc import Iterator

import click
import msgspec

from pipeline.cli.output import TEXT_COLUMNS_MIN, count_of, visible, wrapped
from pipeline.ledger.receipt import Explanation
from pipeline.ledger.receipt_text import render
from pipeline.replay.why_not import WhyNot

_LABEL_COLUMNS = 13
_TIME_COLUMNS = 26  # of a time as `format_time` writes it, and the space after it


class Account(Explanation, frozen=True):
    """The JSON of `resmeter explain --json`: the receipt, and why nothing is billed."""

    why_not: WhyNot | None = None

    @classmethod
    def of(cls, receipt: Explanation) -> "Account":
        """Return an account with this receipt."""
        return cls(*(getattr(receipt, name) for name in Explanation.__struct_fields__))

    def because(self, reason: WhyNot | None) -> "Account":
        """Return the account with a reason why nothing is billed."""
        return msgspec.structs.replace(self, why_not=reason)


def print_account(account: Account, *, as_json: bool) -> None:
    """Print an account for the terminal, or as one line of JSON."""
    if as_json:
        click.echo(visible(msgspec.json.encode(account).decode()))
        return
    columns = shutil.get_terminal_size().columns
    if account.records:
        lines = list(receipt_lines(account, columns))
    else:
        lines = [visible(f"Conversation {account.conversation} of {account.tenant_id}")]
        if account.why_not is not None and account.why_not.reason != "owed":
            lines[0] += ": nothing is billed"
    if account.why_not is not None:
        lines += ["", *why_not_lines(account.why_not, columns)]
    for line in lines:
        click.echo(line)


def receipt_lines(explanation: Explanation, columns: int) -> Iterator[str]:
    """Yield the lines of the receipt, wrapped and indented below their labels."""
    for line in render(explanation):
        yield wrapped(line, max(columns, TEXT_COLUMNS_MIN), " " * _LABEL_COLUMNS)


def why_not_lines(answer: WhyNot, columns: int) -> Iterator[str]:
    """Yield why a conversation has no charge, then what its events did, wrapped like the receipt."""
    width = max(columns, TEXT_COLUMNS_MIN)
    label = "Owed" if answer.reason == "owed" else "Why not"
    rows = [(label, f"{answer.why}."), ("Rule", answer.rule)]
    if answer.policy is not None:
        rows.append(("Policy", f"{answer.policy}, version {answer.policy_version}"))
    if answer.reason == "excluded" and answer.owed:
        units = ", ".join(f"{count} {outcome}" for outcome, count in answer.owed.items())
        rows.append(("Otherwise", f"its events would owe {units}"))
    rows.append(("Events", f"{answer.events:,} accepted"))
    if answer.rejected:
        reasons = ", ".join(f"{number} {reason}" for reason, number in answer.rejected.items())
        rows.append(("Rejected", count_of(sum(answer.rejected.values()), "event") + f": {reasons}"))
    rows += [("Note", f"{note}.") for note in answer.notes]
    for name, text in rows:
        yield wrapped(f"{name:<{_LABEL_COLUMNS}}{text}", width, " " * _LABEL_COLUMNS)
    if answer.history:
        yield ""
    for line in answer.history:
        named = line.what if line.event is None else f"{line.what} ({line.event})"
        yield wrapped(f"{line.at}  {named}: {line.effect}", width, " " * _TIME_COLUMNS)
