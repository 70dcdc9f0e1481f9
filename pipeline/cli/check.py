"""`resmeter check`."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator

import click

from pipeline import logs
from pipeline.catalog.planning import plan
from pipeline.catalog.tenants import Tenants, load_tenants, read_declared
from pipeline.cli import MISUSED
from pipeline.cli.output import count_of, text_columns, wrapped
from pipeline.config import Settings, load_valid_settings, unknown_variables
from pipeline.errors import ConfigurationError, UnavailableError

_INDENT = " " * 3


@click.command("check")
def command() -> None:
    """Check settings, tenant file and policies, broker, catalog, ledger and Stripe key at once.

    The check changes nothing. It lists every problem, with what to do about it. Exit status 2:
    there is a problem.

    \b
    Example:
      RESMETER_CONFIG=resmeter.toml resmeter check && resmeter worker
    """
    settings, problems, wrong = load_valid_settings()
    logs.configure(settings.log)
    _show("settings", [] if problems else ["every variable is valid"], problems)
    for unknown in unknown_variables():
        # Not a problem: the tenant file may name it.
        _print(f"-  settings: {unknown}")
    count = len(problems)
    for section, name, check in _checks(settings):
        if section in wrong:
            _print(f"-  {name}: not checked, because its settings are wrong")
            continue
        facts: list[str] = []
        try:
            problems = check(facts)
        except ConfigurationError as error:
            problems = list(error.problems)
        except UnavailableError as error:
            problems = [str(error)]
        _show(name, facts, problems)
        count += len(problems)
    if count:
        click.echo(f"error: {count_of(count, 'problem')} to solve", err=True)
        sys.exit(MISUSED)


Check = Callable[[list[str]], list[str]]  # appends facts to its argument, returns problems


def _checks(settings: Settings) -> Iterator[tuple[str, str, Check]]:
    tenants: list[Tenants] = []

    def tenant_file(facts: list[str]) -> list[str]:
        loaded = load_tenants(settings.config)
        tenants.append(loaded)
        facts.append(
            f"{settings.config}: {count_of(len(loaded.customers), 'tenant')} with a Stripe customer"
            if settings.config
            else "RESMETER_CONFIG is not set"
        )
        return []

    def broker(facts: list[str]) -> list[str]:
        from pipeline.kafka.fencing import fence_problems
        from pipeline.kafka.topics import TopicAdmin

        problems = TopicAdmin(settings).problems() + fence_problems(settings)
        facts.append(f"{settings.kafka.bootstrap_servers} answers")
        return problems

    def catalog(facts: list[str]) -> list[str]:
        from pipeline.catalog.topic import current_tenants

        found = current_tenants(settings)
        tenants[:] = [found]
        number, digest = found.catalog.head
        billed = count_of(len(found.customers), "tenant")
        facts.append(f"up to entry {number} ({digest[:12]}), {billed} with a Stripe customer")
        now_ms = int(time.time() * 1000)
        if settings.config is not None:
            planned = plan(found.catalog, read_declared(settings.config)[0], now_ms, now_ms)
            if planned.refused or not planned.additions.is_empty:
                click.echo(
                    f"-  catalog: {settings.config} differs from it, and changes nothing until you "
                    f"publish it: run `resmeter catalog plan {settings.config}`",
                    err=True,
                )
        return found.problems_in_worker(settings.worker.seal_after_ms, now_ms)

    def ledger(facts: list[str]) -> list[str]:
        from pipeline.ledger import (
            open_ledger,
            priced_under,
            problems_of_rights,
            sslmode_missing,
        )

        opened = open_ledger(settings.ledger.url)
        try:
            problems = problems_of_rights(opened)
            if tenants:
                priced_under.check(opened, tenants[0].catalog)
        finally:
            opened.close()
        facts.append(f"{opened.redacted_url} has the tables of this version and takes writes")
        if missing := sslmode_missing(settings.ledger.url):
            _print(f"-  ledger: {missing}")
        return problems

    def stripe(facts: list[str]) -> list[str]:
        from pipeline.sink.stripe.account import check_account, check_invoicing, check_prices

        known = tenants[0] if tenants else load_tenants(None)
        now_ms = int(time.time() * 1000)

        async def compared() -> list[str]:
            problems = await check_account(
                settings.stripe, known.customers, known.event_names, facts.append
            )
            if problems:
                return problems
            problems = await check_prices(settings.stripe, known.catalog, now_ms, facts.append)
            if settings.close.automatic:
                customers = list(known.catalog.customers.values())
                problems += await check_invoicing(settings.stripe, customers, facts.append)
            return problems

        return asyncio.run(compared())

    yield "config", "tenant file", tenant_file
    yield "kafka", "broker", broker
    yield "kafka", "catalog", catalog
    yield "ledger", "ledger", ledger
    yield "stripe", "Stripe", stripe


def _show(name: str, facts: list[str], problems: list[str]) -> None:
    if not problems:
        _print(f"ok {name}: {'; '.join(facts)}")
    for problem in problems:
        _print(f"!! {name}: {problem}")


def _print(text: str) -> None:
    """Print a line to standard error; if it is long, it continues below its name."""
    click.echo(wrapped(text, text_columns(sys.stderr), _INDENT), err=True)
