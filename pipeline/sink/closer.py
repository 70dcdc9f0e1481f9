"""Close periods, and bring their invoices to the totals of their statements.

`sink.completing` chooses each step. Here are their effects: calls to the biller, entries of the journal.
A crash before or after any of them loses nothing: the next look begins with what is known then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from pipeline.billing.approvals import Blocked
from pipeline.billing.periods import Period
from pipeline.catalog.tenants import Tenants
from pipeline.errors import (
    BrokenInvariantError,
    ConfigurationError,
    UnavailableError,
)
from pipeline.events.times import format_time
from pipeline.ledger import Ledger
from pipeline.ledger.invoice_entries import InvoiceConcluded
from pipeline.ledger.month_entries import MonthItem
from pipeline.ledger.months import accounts_to_invoice
from pipeline.ledger.statements import Prepared
from pipeline.sink.completing import (
    Add,
    Close,
    Conclude,
    Create,
    Facts,
    Finalise,
    Hold,
    Plan,
    Step,
    Stop,
    Wait,
    charging,
    next_own_step,
    next_step,
    own_invoice,
)
from pipeline.sink.invoicing import AddedItem, Invoice, InvoiceRefusedError, Invoices
from pipeline.sink.month_facts import MonthFacts
from pipeline.sink.progress import Progress, Work, concluded, progress_of

ACCOUNTS_CONCURRENT_MAX = 10
MISSED_MS = 40 * 86_400_000  # for how long a missed invoice is reported
DRAFTED_MS = 6 * 3_600_000  # after the end of a period, every draft has been made
_STEPS_MAX = 1_000  # far more than an invoice has items

# Returns by account the closing of its period, what is missing for it, or why it cannot be stated.
Prepare = Callable[[Sequence[tuple[str, Period]]], Mapping[str, Prepared | str]]
# Writes items to the journal, reads them back, and returns why each is void, or None.
Write = Callable[[Sequence[MonthItem]], Awaitable[list[str | None]]]


class Closer:
    """Closes the periods of accounts, and completes their invoices.

    Args:
        ledger: where closings and the states of invoices are.
        tenants: returns who is billed, as the catalog has it now.
        biller: where the invoices are.
        prepare: see `Prepare`.
        write: see `Write`.
        now_ms: the time.
        after_ms: how long after its end a period is closed.
        by_itself: nobody has asked for it: a period without a draft stays open.
    """

    def __init__(
        self,
        ledger: Ledger,
        tenants: Callable[[], Tenants],
        biller: Invoices,
        prepare: Prepare,
        write: Write,
        now_ms: Callable[[], int],
        *,
        after_ms: int,
        by_itself: bool,
    ) -> None:
        self._ledger = ledger
        self._tenants = tenants
        self._known = MonthFacts(ledger, tenants, biller, now_ms)
        self._biller = biller
        self._prepare = prepare
        self._write = write
        self._now_ms = now_ms
        self._after_ms = after_ms
        self._by_itself = by_itself
        self._unheld: dict[str, str] = {}  # draft → why the key may not hold it
        self._slots = asyncio.Semaphore(ACCOUNTS_CONCURRENT_MAX)

    def accounts(self) -> list[str]:
        """Return the accounts that have a customer, or had one when a period was closed."""
        return sorted({*self._tenants().catalog.customers, *accounts_to_invoice(self._ledger)})

    async def look(self, names: Sequence[str], period: str | None = None) -> list[Progress]:
        """Do what can be done now for accounts, and say how far each of their periods is.

        Args:
            names: the accounts.
            period: the name of the period to close; None: all that are closed and not invoiced, and
                the next.

        Raises:
            ConfigurationError: no period has this name.
        """
        works = await asyncio.to_thread(self._known.works, names, period)
        found = list(await asyncio.gather(*map(self._advance, works)))
        due = [number for number, progress in enumerate(found) if progress.is_due]
        if due:
            asked = [
                (works[number]._replace(period=found[number].period), found[number])
                for number in due
            ]
            closed = await self._close(asked)
            for number, progress in zip(due, closed, strict=True):
                found[number] = progress
        return found

    async def make_own(self, name: str, period: str) -> Progress:
        """Make an invoice of our own for what the invoice of a closed period lacks, or for all of it.

        Raises:
            ConfigurationError: the period is not closed, or there is nothing to invoice.
        """
        (work,) = await asyncio.to_thread(self._known.works, [name], period)
        if work.customer is None or not work.is_closed:
            raise ConfigurationError([f"{name}, {work.period.name}: is not closed"])
        work = await asyncio.to_thread(self._known.stated, work)
        facts = await self._facts(work)
        is_none = work.stored is None and not charging(facts.invoices, work.period)
        if is_none and (early := self._too_early(work)):
            raise ConfigurationError([f"{name}, {work.period.name}: {early}"])
        planned = own_invoice(facts, work.stored.amount if work.stored else None)
        if isinstance(planned, str):
            raise ConfigurationError([f"{name}, {work.period.name}: {planned}"])
        (why,) = await self._write([planned])
        if why is not None:
            raise ConfigurationError([f"{name}, {work.period.name}: {why}"])
        works = await asyncio.to_thread(self._known.works, [name], period)
        return await self._advance(works[-1])

    def _too_early(self, work: Work) -> str | None:
        """Return that the biller may still make the invoice of a period, which has none yet."""
        drafted_ms = work.period.end_ms + DRAFTED_MS
        if self._now_ms() >= drafted_ms:
            return None
        return (
            f"no subscription of {work.customer} has made an invoice for it yet: that nobody makes one "
            f"is sure from {format_time(drafted_ms)} on"
        )

    # --- steps ------------------------------------------------------------------------------------

    async def _advance(self, work: Work) -> Progress:
        """Make the steps that can be made now; an error of one account does not hold up others."""
        async with self._slots:
            try:
                return await self._steps(work)
            except UnavailableError as error:
                return progress_of(work, "waiting", str(error))
            except (ConfigurationError, BrokenInvariantError, InvoiceRefusedError) as error:
                return progress_of(work, "stopped", str(error))

    async def _steps(self, work: Work) -> Progress:
        if work.stored is not None and work.stored.state != "planned":
            return concluded(work, work.stored)
        if work.customer is None:
            return await self._without_customer(work)
        if work.is_closed:
            work = await asyncio.to_thread(self._known.stated, work)
        facts = await self._facts(work)
        if work.is_first and self._by_itself:
            begun = await self._begun(work, facts)
            if isinstance(begun, Progress):
                return begun
            work, facts = begun
        before: Step | None = None
        for _ in range(_STEPS_MAX):
            step = self._step_of(work, facts)
            if isinstance(step, Stop):
                return progress_of(work, "stopped", step.why)
            if isinstance(step, Wait):
                return progress_of(work, "waiting", step.why)
            if isinstance(step, Close):
                return self._unclosed(work, facts)
            if isinstance(step, Conclude):
                if step.invoice is None and (early := self._too_early(work)):
                    return progress_of(work, "waiting", early)
                return await self._conclude(work, step)
            if step == before:
                break
            await self._do(work, step)
            if isinstance(step, Add):
                facts = _with_item(facts, step)
                if isinstance(self._step_of(work, facts), Add):
                    continue
            # What is there now: of ours, or of another sink that was faster.
            work = await asyncio.to_thread(self._known.again, work)
            facts, before = await self._facts(work), step
        raise UnavailableError(f"the invoice of {work.period.name} does not get further")

    async def _begun(self, work: Work, facts: Facts) -> tuple[Work, Facts] | Progress:
        """Return with which period an account begins, or that a person must begin with an earlier one.

        Its drafts are left alone until then: Stripe makes them final. If we hold the draft of the first
        period, we have begun with it, however long it has been open.
        """
        if not charging(facts.invoices, work.period):
            return work, facts
        first = await asyncio.to_thread(self._known.first_open, work)
        if first >= work.period:
            return work, facts
        earlier = work._replace(period=first)
        facts = await self._facts(earlier)
        held = [each for each in facts.invoices if each.is_draft and each.is_held]
        if charging(held, first):
            return earlier, facts
        why = (
            f"the account has earlier periods that are not closed, from {first.name} on, so nothing is "
            f"closed by itself: run `resmeter close {work.account.name} --period {first.name}`, and so "
            "on in their order"
        )
        progress = progress_of(work, "open", why)
        return self._of_draft(progress, held[-1]) if held else progress

    async def _do(self, work: Work, step: Step) -> None:
        """Make the one effect of a step."""
        if isinstance(step, Add):
            await self._biller.add(step.invoice, step.item)
        elif isinstance(step, Hold):
            await self._hold(step.invoice)
        elif isinstance(step, Create):
            planned, text = step.planned, f"{work.account.name}, {work.period.name}"
            await self._biller.create(planned.customer, planned.currency, planned.key, text)
        elif isinstance(step, Plan):
            await self._write([step.planned])
        elif isinstance(step, Finalise):
            await self._biller.finalise(step.invoice)

    async def _without_customer(self, work: Work) -> Progress:
        """Return the progress of an account that has no customer, or shares it: it has no invoice."""
        why = "the account has no customer of its own, so it has no invoice"
        if work.is_closed:
            done = await self._conclude(work, Conclude("without", None, 0))
            return done._replace(texts=(why,))
        if self._by_itself or self._now_ms() < work.period.end_ms:
            return progress_of(work, "open", f"{why}: it is not closed by itself")
        return progress_of(work, "open")._replace(is_due=True)

    async def _facts(self, work: Work) -> Facts:
        facts = await self._known.of(work)
        return facts._replace(invoices=[self._as_held(each) for each in facts.invoices])

    def _as_held(self, invoice: Invoice) -> Invoice:
        if invoice.id not in self._unheld:
            return invoice
        return msgspec.structs.replace(invoice, advances=False, is_held=True)

    def _step_of(self, work: Work, facts: Facts) -> Step:
        stored = work.stored
        if stored is not None and stored.is_own and stored.planned is not None:
            return next_own_step(facts, stored.planned)
        return next_step(facts)

    async def _hold(self, invoice: Invoice) -> None:
        """Hold a draft; if the key may not, go on: the biller makes it final when its grace ends."""
        try:
            await self._biller.hold(invoice)
        except ConfigurationError as error:
            self._unheld[invoice.id] = str(error)

    def _unclosed(self, work: Work, facts: Facts) -> Progress:
        """Return whether an open period is to be closed now, or why not."""
        found = charging(facts.invoices, work.period)
        draft = next((each for each in found if each.is_draft), None)
        close_ms = work.period.end_ms + self._after_ms
        if self._now_ms() < close_ms:
            progress = progress_of(work, "open", f"it is closed from {format_time(close_ms)} on")
        elif self._by_itself and (not found or (work.is_first and draft is None)):
            why = (
                f"no subscription of {work.customer} has made a draft for it, so it is not closed by "
                f"itself: run `resmeter close {work.account.name}`"
            )
            progress = progress_of(work, "open", why)
        else:
            progress = progress_of(work, "open")._replace(is_due=True)
        return progress if draft is None else self._of_draft(progress, draft)

    def _of_draft(self, progress: Progress, draft: Invoice) -> Progress:
        progress = progress._replace(invoice=draft.id, amount=draft.total - draft.others)
        if (why := self._unheld.get(draft.id)) is None:
            return progress
        texts = (*progress.texts, f"the draft is not held: {why}")
        return progress._replace(texts=texts, finalises_at=draft.finalises_at)

    async def _close(self, due: Sequence[tuple[Work, Progress]]) -> list[Progress]:
        """Write the closings of periods for which nothing is missing, and go on with those."""
        asked = [(work.account.name, work.period) for work, _ in due]
        try:
            prepared = await asyncio.to_thread(self._prepare, asked)
            results = [prepared[work.account.name] for work, _ in due]
            found = (each.closing for each in results if isinstance(each, Prepared))
            closings = [each for each in found if each is not None]
            if closings:
                await self._write(closings)
        except (ConfigurationError, UnavailableError) as error:
            why = (str(error),)
            return [
                each._replace(state="waiting", texts=(*each.texts, *why), is_due=False)
                for _, each in due
            ]
        after = (
            self._after_close(*each, result) for each, result in zip(due, results, strict=True)
        )
        return list(await asyncio.gather(*after))

    async def _after_close(
        self, work: Work, progress: Progress, prepared: Prepared | str
    ) -> Progress:
        if isinstance(prepared, str):
            return progress._replace(state="stopped", texts=(prepared,), is_due=False)
        statement = prepared.stated.statement
        if prepared.closing is not None:
            work = await asyncio.to_thread(self._known.again, work)
            if work.is_closed:
                return await self._advance(work)
        texts = [f"{each.what}: {each.detail}" for each in prepared.missing]
        waiting = [each for each in prepared.missing if each.what in ("unapproved", "unmatched")]
        return progress._replace(
            is_due=False,
            corrections=Blocked(
                sum(each.number for each in waiting), sum(each.amount for each in waiting)
            ),
            currency=statement.currency,
            amount=statement.total,
            texts=tuple(
                texts or ["something has changed meanwhile: it is closed at the next look"]
            ),
        )

    async def _conclude(self, work: Work, step: Conclude) -> Progress:
        item = InvoiceConcluded(
            account=work.account.name,
            period_start=work.period.start_ms,
            state=step.state,
            at=self._now_ms(),
            invoice=step.invoice.id if step.invoice else "",
            amount=step.amount,
            is_own=work.stored is not None and work.stored.is_own,
        )
        await self._write([item])
        work = await asyncio.to_thread(self._known.again, work)
        if work.stored is None:
            raise UnavailableError("what the invoice came to is not in the ledger yet")
        return concluded(work, work.stored)


def _with_item(facts: Facts, step: Add) -> Facts:
    """Return the facts after an item was added, without asking the biller."""
    added = AddedItem(step.item.key, step.item.amount)
    changed = msgspec.structs.replace(
        step.invoice,
        items=(*step.invoice.items, added),
        total=step.invoice.total + added.amount,
    )
    invoices = [changed if each.id == changed.id else each for each in facts.invoices]
    return facts._replace(invoices=invoices)
