"""Answer calls for one or more accounts, under a clock, and keep them if a file is named."""

from collections.abc import Iterable

from pipeline.dev.emulator.clock import Clock
from pipeline.dev.emulator.history import Answered, Configured, Entry, History, Prepared
from pipeline.dev.emulator.response import Response, StripeError
from pipeline.dev.emulator.routes import Call, respond
from pipeline.dev.emulator.state import State

GRACE_SECONDS_MAX = 72 * 3600


class Backend:
    """What is behind the emulator's server.

    Args:
        state: what the account of the key has.
        accounts: the connected accounts, each with a state of its own.
            https://docs.stripe.com/connect/authentication
        history: the file that keeps the calls, or None.
    """

    def __init__(
        self,
        state: State,
        clock: Clock,
        accounts: Iterable[str] = (),
        history: History | None = None,
    ) -> None:
        self.state = state
        self.clock = clock
        self.states: dict[str | None, State] = {None: state}
        self.states |= {account: State() for account in accounts}
        self._history = history
        for entry in history.entries() if history else ():
            self._do(entry)

    def state_of(self, account: str | None) -> State:
        """Return the state of an account.

        Raises:
            StripeError: the key has no access to it.
        """
        if account not in self.states:
            raise StripeError(
                403,
                f"The provided key does not have access to account '{account}' (or that account does "
                "not exist).",
                code="account_invalid",
            )
        return self.states[account]

    def answer(self, call: Call) -> Response:
        """Answer a call.

        Raises:
            StripeError: there is no such path or account.
        """
        at = self.clock.now()
        response = respond(self.state_of(call.account), call, at)
        if call.method != "GET":
            self._keep(Answered(at, call))
        return response

    def prepare(self, customers: Iterable[str], event_names: Iterable[str]) -> None:
        """Create the customers and meters that are missing."""
        self._tell(Prepared(self.clock.now(), sorted(customers), sorted(event_names)))

    def set_clock(self, now: float | None) -> None:
        """Set the clock; what falls due up to its time happens at once."""
        self.clock.set(now)
        self._tell(Configured(self.clock.now(), clock_ahead=self.clock.ahead))

    def configure(self, lag_seconds: float | None, grace_seconds: int | None) -> None:
        """Set how late summaries are, and how long drafts wait; None leaves one as it is."""
        self._tell(
            Configured(self.clock.now(), lag_seconds=lag_seconds, grace_seconds=grace_seconds)
        )

    def _tell(self, entry: Prepared | Configured) -> None:
        self._do(entry)
        self._keep(entry)

    def _keep(self, entry: Entry) -> None:
        if self._history is not None:
            self._history.append(entry)

    def _do(self, entry: Entry) -> None:
        if isinstance(entry, Answered):
            state = self.states.setdefault(entry.call.account, State())
            respond(state, entry.call, entry.at)
            return
        for state in self.states.values():
            state.advance(entry.at)
        if isinstance(entry, Prepared):
            self.state.prepare(entry.customers, entry.event_names, entry.at)
            return
        if entry.clock_ahead is not None:
            self.clock.ahead = entry.clock_ahead
        for state in self.states.values():
            if entry.lag_seconds is not None:
                state.meter_events.lag_seconds = entry.lag_seconds
            if entry.grace_seconds is not None:
                state.invoices.grace_seconds = entry.grace_seconds
