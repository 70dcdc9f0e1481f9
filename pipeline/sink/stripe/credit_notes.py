"""Read a customer's final invoices at Stripe, and issue credit notes on them.

https://docs.stripe.com/api/credit_notes/create

A credit note lowers what an open invoice asks for. Of what is paid, the call says where it goes: back
as a refund, or outside of Stripe. Never to the customer's balance, from which any later invoice would
take it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import stripe

from pipeline.billing.invoice import to_stripe
from pipeline.config import StripeSettings
from pipeline.errors import ConfigurationError, UnavailableError
from pipeline.sink.crediting import CreditRefusedError, FinalInvoice, Made, Wanted
from pipeline.sink.stripe.client import PAGE_SIZE, StripeClient, read_again, read_pages
from pipeline.sink.stripe.responses import is_busy

CALL_TIMEOUT_SECONDS = 20.0
_KEY = "resmeter_key"
_CREDITABLE = ("open", "paid", "uncollectible")
# What Stripe's SDK raises of an answer that lacks a member.
_NOT_STRIPES = (AttributeError, KeyError, TypeError, ValueError)


class StripeCreditNotes:
    """Stripe as `CreditNotes`. Closing it closes its client; create and close it in one event loop."""

    def __init__(
        self,
        settings: StripeSettings,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Open a client; nothing is sent.

        Raises:
            ConfigurationError: there is no key.
        """
        self._client = StripeClient(settings, timeout_seconds=CALL_TIMEOUT_SECONDS)
        self._v1 = self._client.v1
        self._pause = pause

    async def close(self) -> None:
        await self._client.close()

    async def invoices(self, customer: str, currency: str) -> list[FinalInvoice]:
        """Return the final invoices of a customer in a currency, newest first."""
        with self._translated(f"the invoices of {customer}"):
            listed = await self._pages(self._v1.invoices.list_async, customer=customer)
            return [
                _final(each, currency)
                for each in listed
                if each.status in _CREDITABLE and each.currency == currency
            ]

    async def find(self, invoice: str, key: str) -> Made | None:
        """Return the credit note that stands for a key, if an invoice has it."""
        with self._translated(f"the credit notes of {invoice}"):
            listed = await self._pages(self._v1.credit_notes.list_async, invoice=invoice)
            for each in listed:
                if each.metadata and getattr(each.metadata, _KEY, None) == key:
                    return Made(each.id, is_void=each.status == "void")
        return None

    async def make(self, wanted: Wanted) -> Made:
        """Issue a credit note.

        Raises:
            CreditRefusedError: Stripe refuses it, for good.
        """
        amount = to_stripe(wanted.amount, wanted.currency)
        params: Any = {
            "invoice": wanted.invoice,
            "amount": amount,
            "memo": wanted.memo,
            "metadata": {_KEY: wanted.key},
        }
        with self._translated(f"a credit note on {wanted.invoice}"):
            found: Any = await self._again(lambda: self._v1.invoices.retrieve_async(wanted.invoice))
            paid = amount - min(amount, int(found.amount_remaining))
            if paid:
                if wanted.goes is None:
                    raise CreditRefusedError(
                        f"{wanted.invoice} asks for less by now, and nobody said where paid money goes"
                    )
                params[f"{wanted.goes}_amount"] = paid
            # If the invoice was paid since an earlier call, Stripe refuses the key: that call may count.
            options: Any = {"idempotency_key": wanted.key}
            made = await self._v1.credit_notes.create_async(params, options)
            return Made(made.id, is_void=made.status == "void")

    async def _pages(self, listing: Callable[[Any], Awaitable[object]], **which: str) -> list[Any]:
        async def read(after: str | None) -> object:
            params = {**which, "limit": PAGE_SIZE}
            if after is not None:
                params["starting_after"] = after
            return await self._again(lambda: listing(params))

        return await read_pages(read, "objects")

    async def _again(self, read: Callable[[], Awaitable[object]]) -> object:
        return await read_again(read, self._pause)

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        client = self._client
        try:
            yield
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            raise ConfigurationError(
                [f"RESMETER_STRIPE__API_KEY: {what}: {client.message_of(error)}"]
            ) from error
        except (stripe.InvalidRequestError, stripe.CardError) as error:
            message = f"{what}: {client.message_of(error)}"
            if is_busy(error.http_status, error.code):
                raise UnavailableError(f"Stripe at {client.address}: {message}") from error
            raise CreditRefusedError(f"Stripe refuses {message}") from error
        except (stripe.StripeError, aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(
                f"Stripe at {client.address}: {what}: {client.message_of(error)}"
            ) from error
        except _NOT_STRIPES as error:
            raise UnavailableError(
                f"{client.address}: {what}: not an answer of Stripe: {client.message_of(error)}"
            ) from error


def _final(found: Any, currency: str) -> FinalInvoice:
    more = to_stripe(1, currency)
    credited = found.pre_payment_credit_notes_amount + found.post_payment_credit_notes_amount
    before_tax = found.total if found.total_excluding_tax is None else found.total_excluding_tax
    return FinalInvoice(
        id=found.id,
        number=found.number or found.id,
        status=found.status,
        created=found.created,
        left=max(0, found.total - credited) // more,
        unpaid=found.amount_remaining // more,
        is_taxed=before_tax != found.total,
    )
