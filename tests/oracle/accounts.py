"""Random accounts: usage records, a contract in versions, grants, and times around every edge."""

from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, NamedTuple

from hypothesis import assume
from hypothesis import strategies as st

from tests.oracle.money import statements
from tests.oracle.periods import Period, assigned, calendar, milliseconds, minor, shown

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
T0 = milliseconds("2026-01-20T00:00:00Z")  # records occur in the three months after it
OUTCOMES = ("resolution", "procedure_handoff", "qualification")
TENANTS = ("acme", "acme-eu", "Acme")
POLICIES = {  # what the presets charge, and in which currency
    "fin-2026": (
        {"resolution": "0.99", "procedure_handoff": "0.99", "qualification": "9.99"},
        "usd",
    ),
    "hubspot-2026": (
        {"resolution": "0.50", "procedure_handoff": "0.99", "qualification": "9.99"},
        "usd",
    ),
}
DEAREST = "9.99"
ANCHORS = (
    None,
    "2026-01-01T00:00:00Z",
    "2024-02-29T00:00:00Z",
    "2025-10-31T07:00:00Z",
    "2026-05-30T23:00:00Z",
    "2026-03-15T00:00:00Z",
)
PRICES = ("0.99", "0.990", "0.005", "0.333", "1", "9.99", "0.000000000001", "0", "2.5")


class Account(NamedTuple):
    """What the statements of one account are made of."""

    records: list[dict[str, Any]]  # in ledger order
    versions: list[dict[str, Any]]  # of the contract
    grants: list[dict[str, Any]]
    close_after: int
    as_of: int
    # Pairs of names: what the statement of a period adjusts of another is rejected.
    rejected: frozenset[tuple[str, str]] = frozenset()

    def statements(
        self, period: str, as_of: int, spans: tuple[int, int] | None = None
    ) -> list[dict[str, Any]]:
        """Return what the second implementation says, up to the period.

        With `spans`, the account has its contract only from a time to a time.
        """
        versions = self.versions if spans is None else assigned(self.versions, *spans)
        return statements(
            self.records,
            versions,
            self.grants,
            period,
            as_of,
            self.close_after,
            price_of,
            "acme",
            () if spans is None else spans,
            self.rejected,
        )

    def periods_until(self, time: int) -> list[Period]:
        """Return the periods that have begun, from the first that can have something in it."""
        return list(takewhile(lambda p: p.start <= time, calendar(self.versions, T0 - 120 * DAY)))


def price_of(policy: str, version: int, outcome: str) -> tuple[str, str] | None:
    prices, currency = POLICIES[policy]
    return (prices[outcome], currency) if outcome in prices and version == 1 else None


def text(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def amounts(currency: str) -> st.SearchStrategy[str]:
    """Draw an amount that the currency can pay."""
    tenths = {"jpy": "{}", "kwd": "{}.010"}.get(currency, "{}.05")
    return st.integers(1, 12).map(tenths.format)


@st.composite
def terms(draw: st.DrawFn, currency: str) -> dict[str, Any]:
    """Draw what one version of a contract says, but not from when."""
    made: dict[str, Any] = {}
    prices: dict[str, str] = {}
    tiers: dict[str, Any] = {}
    for outcome in OUTCOMES:
        how = draw(st.sampled_from(["price", "tiers", "policy"]))
        if how == "tiers":
            first, second, last = draw(st.lists(st.sampled_from(PRICES), min_size=3, max_size=3))
            tiers[outcome] = [
                {"up_to": 1, "price": first},
                {"up_to": 3, "price": second},
                {"price": last},
            ][draw(st.integers(0, 2)) :]
        elif how == "price" or (currency != "usd" and draw(st.integers(0, 9))):
            prices[outcome] = draw(st.sampled_from(PRICES))
    made.update({"price": prices} if prices else {})
    made.update({"tiers": tiers} if tiers else {})
    included = draw(st.dictionaries(st.sampled_from(OUTCOMES[:2]), st.integers(0, 3), max_size=2))
    made.update({"included": included} if included else {})
    cap: dict[str, Any] = {}
    if draw(st.booleans()):
        cap["units"] = draw(st.integers(0, 4))
    if draw(st.booleans()):
        # Not below any price, and not below any minimum.
        least = {"jpy": 12, "kwd": 13}.get(currency, 13)
        cap["amount"] = str(draw(st.sampled_from([least, least + 1, 20])))
    if cap:
        cap["action"] = draw(st.sampled_from(["stop", "stop", "alert"]))
        made["cap"] = cap
    if draw(st.integers(0, 3)) == 0:
        made["minimum"] = {"amount": draw(amounts(currency))}
    if draw(st.booleans()):
        made["prorate"] = False
    return made


@st.composite
def contracts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw a contract in one or more versions."""
    currency = draw(st.sampled_from(["usd", "usd", "usd", "jpy", "kwd", "eur"]))
    anchor = draw(st.sampled_from(ANCHORS))
    versions = [draw(terms(currency))]
    if draw(st.integers(0, 2)) == 0:
        versions.append(draw(terms(currency)))
        anchor_after = draw(st.sampled_from([anchor, *ANCHORS]))
        change = T0 + draw(st.sampled_from([50, 65, 80, 100])) * DAY
        edge = draw(st.sampled_from(_starts(anchor, change)))
        versions[1]["effective_from"] = text(
            draw(st.sampled_from([edge, edge + 1, edge - 1, change]))
        )
        _anchor(versions[1], anchor_after)
    _anchor(versions[0], anchor)
    if draw(st.booleans()) or len(versions) > 1 or "minimum" in versions[0]:
        early = min(_starts(anchor, T0))
        later = [0, 0, 1, 10 * DAY] + [45 * DAY] * (len(versions) == 1)
        versions[0]["effective_from"] = text(early + draw(st.sampled_from(later)))
    for number, version in enumerate(versions, 1):
        version["version"] = number
        if currency != "usd" or draw(st.booleans()):
            version["currency"] = draw(st.sampled_from([currency, currency.upper()]))
    return versions


def _anchor(version: dict[str, Any], anchor: str | None) -> None:
    if anchor is not None:
        version["period"] = {"anchor": anchor}


def _starts(anchor: str | None, time: int) -> list[int]:
    """Return the starts of the periods around the time."""
    version = {"period": {"anchor": anchor}} if anchor is not None else {}
    periods = calendar([version], time)
    return [next(periods).start for _ in range(5)][1:]


@st.composite
def accounts(draw: st.DrawFn, *, rejects: bool = False) -> Account:
    """Draw an account and the time at which its statements are read.

    With `rejects`, people reject what some statements adjust, and make credit notes.
    """
    versions = draw(contracts())
    close_after = draw(
        st.sampled_from([45 * MINUTE, 45 * MINUTE, 45 * MINUTE, 0, 3 * DAY, 40 * DAY])
    )
    last = T0 + 120 * DAY + close_after  # no period begins twice on a day: it would have no name
    periods = Account([], versions, [], close_after, 0).periods_until(last)
    assume(len({p.name for p in periods}) == len(periods))
    edges = sorted({edge for p in periods for edge in (p.start, p.end, p.end + close_after)})
    offsets = [-10 * DAY, -HOUR, -1, 0, 1, 20 * MINUTE, HOUR, 3 * DAY, 12 * DAY]
    moments = st.builds(
        int.__add__,
        st.sampled_from([edge for edge in edges if T0 <= edge <= T0 + 80 * DAY]),
        st.sampled_from(offsets),
    )
    records = draw(histories(moments))
    grants = draw(grant_lists(moments, _currency(versions)))
    late = st.sampled_from([edge for edge in edges if edge >= T0 + 40 * DAY])
    as_of = draw(late) + draw(st.sampled_from(offsets))
    rejected: frozenset[tuple[str, str]] = frozenset()
    if rejects:
        rejected = draw(rejections([period.name for period in periods]))
    account = Account(records, versions, [], close_after, as_of, rejected)
    if rejects:
        standing = [grant for grant in grants if grant["kind"] != "void"]
        notes = draw(credit_notes(account._replace(grants=standing)))
        grants = sorted([*grants, *notes], key=_entered)
    return account._replace(grants=_with_amounts(account, grants))


def _currency(versions: list[dict[str, Any]]) -> str:
    return next((v["currency"].lower() for v in versions if "currency" in v), "usd")


@st.composite
def rejections(draw: st.DrawFn, names: list[str]) -> frozenset[tuple[str, str]]:
    """Draw what people rejected: nothing, or all that some statements adjust."""
    rejecting = draw(
        st.one_of(
            st.just(set()),
            st.just(set()),
            st.sets(st.sampled_from(names), min_size=len(names) // 2),
        )
    )
    return frozenset(
        (later, earlier)
        for n, later in enumerate(names)
        if later in rejecting
        for earlier in names[:n]
    )


@st.composite
def histories(draw: st.DrawFn, moments: st.SearchStrategy[int]) -> list[dict[str, Any]]:
    """Draw records in ledger order: charges, what takes them back, and -1s of nothing known."""
    delays = st.sampled_from([0, 0, 0, 0, 0, 1, 30 * MINUTE, 45 * MINUTE, DAY, 35 * DAY])
    records = []
    for n in range(draw(st.integers(3, 16))):
        tenant, policy = draw(st.sampled_from(TENANTS)), draw(st.sampled_from(sorted(POLICIES)))
        charge = {
            "id": f"{tenant}:c{n}:1",
            "tenantid": tenant,
            "conversation": f"c{n}",
            "outcome": draw(st.sampled_from([*OUTCOMES[:1] * 3, *OUTCOMES])),
            "quantity": 1,
            "kind": "confirmed",
            "reason": "confirmed",
            "occurred_at": text(at := draw(moments)),
            "policy": policy,
            "policy_version": draw(st.sampled_from([1] * 30 + [2])),
            "evidence": ["e1"],
            "supersedes": None,
        }
        stored = at + draw(delays)
        fate = draw(st.sampled_from(["stands"] * 4 + ["taken back"] * 3 + ["unmatched"]))
        if fate != "stands":
            returned = at + draw(delays) + draw(st.sampled_from([0, 1, HOUR, 20 * DAY, 40 * DAY]))
            reversal = {
                **charge,
                "id": f"{tenant}:c{n}:2",
                "quantity": -1,
                "reason": "customer_returned",
                "occurred_at": text(returned),
                "supersedes": charge["id"],
            }
            records.append((returned + draw(delays), reversal))
        if fate != "unmatched":
            records.append((stored, charge))
    records.sort(key=lambda one: one[0])
    return [_stored(draw, at, record) for at, record in records]


def _stored(draw: st.DrawFn, at: int, record: dict[str, Any]) -> dict[str, Any]:
    """Name when the record was stored, unless that is when it occurred."""
    if text(at) == record["occurred_at"] and draw(st.booleans()):
        return record
    return {**record, "stored_at": text(at)}


@st.composite
def grant_lists(
    draw: st.DrawFn, moments: st.SearchStrategy[int], currency: str
) -> list[dict[str, Any]]:
    """Draw packs, credits and their voids; a void does not say yet what it takes."""
    grants: list[dict[str, Any]] = []
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True)):
        created = draw(moments) - draw(st.sampled_from([0, 30 * DAY, 60 * DAY]))
        starts = created + draw(st.sampled_from([-60 * DAY, 0, 20 * DAY]))
        ends = starts + draw(st.sampled_from([25 * DAY, 70 * DAY, 400 * DAY]))
        grant: dict[str, Any] = {
            "kind": draw(st.sampled_from(["pack", "credit"])),
            "id": name,
            "account": "acme",
            "starts_at": text(starts),
            "ends_at": text(ends),
            "created_at": text(created),
        }
        if grant["kind"] == "pack":
            grant["outcomes"] = draw(st.sampled_from([["resolution"], [*OUTCOMES]]))
            grant |= {
                "units": draw(st.integers(1, 5)),
                "price": "4.00" if currency != "jpy" else "4",
            }
        else:
            grant |= {"amount": draw(amounts(currency)), "source": "goodwill"}
        if draw(st.integers(0, 3)) == 0:
            del grant["ends_at"]
        grants.append(grant)
        if draw(st.integers(0, 3)) == 0:
            after = created + draw(st.sampled_from([1, HOUR, 15 * DAY, 40 * DAY]))
            grants.append(
                {
                    "kind": "void",
                    "grant": name,
                    "created_at": text(after),
                    "reason": "returned",
                    "spares": draw(st.sampled_from([0, 0, 0, 1])),  # of the units that are left
                }
            )
    return sorted(grants, key=_entered)


def _entered(grant: dict[str, Any]) -> tuple[int, str]:
    return milliseconds(grant["created_at"]), grant.get("id", "")


@st.composite
def credit_notes(draw: st.DrawFn, account: Account) -> list[dict[str, Any]]:
    """Draw credit notes after statements that carry something; some are void.

    They do not say yet what they give back.
    """
    notes: list[dict[str, Any]] = []
    ends = {period.name: period.end for period in account.periods_until(T0 + 200 * DAY)}
    carrying = [
        ends[statement["period"]] + account.close_after
        for statement in account.statements([*ends][-1], T0 + 400 * DAY)
        if statement["closing"]["carried"].startswith("-")
    ]
    # What is carried when nothing happens any more is carried for ever.
    closes = st.sampled_from(carrying[:3] or [T0])
    for number in range(draw(st.integers(0, 3))):
        note = {
            "kind": "credit_note",
            "id": f"cn-{number}",
            "account": "acme",
            "invoice": f"in_{number}",
            "of_period": text(T0),
            "created_at": text(
                created := draw(closes) + draw(st.sampled_from([-1, 0, 1, HOUR, 12 * DAY]))
            ),
            "part": draw(st.sampled_from([1, 1, 2])),  # of what is carried
        }
        notes.append(note)
        if draw(st.booleans()):
            after = created + draw(st.sampled_from([1, 40 * DAY]))
            notes.append({"kind": "void", "grant": note["id"], "created_at": text(after)})
    return notes


def _with_amounts(account: Account, grants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let each void take what is left when it enters, and a credit note what is carried, or a part."""
    done: list[dict[str, Any]] = []
    given: dict[str, str] = {}
    for grant in grants:
        if grant["kind"] == "credit_note":
            carried = _carried(account._replace(grants=[*done]), milliseconds(grant["created_at"]))
            amount = carried // grant.pop("part") // 10 * 10  # three digits end in 0
            if amount:
                grant["amount"] = given[grant["id"]] = shown(amount, _currency(account.versions))
                done.append(grant)
            continue
        if grant.get("grant", "").startswith("cn-"):
            if grant["grant"] in given:
                grant["takes"] = given[grant["grant"]]
                done.append(grant)
            continue
        if grant["kind"] == "void":
            at = milliseconds(grant["created_at"])
            before = account._replace(grants=[*done])
            closing = before.statements(account.periods_until(at)[-1].name, at)[-1]["closing"]
            left = {**closing["packs"], **closing["credits"]}[grant["grant"]]
            grant["takes"] = max(left - grant["spares"], 0) if isinstance(left, int) else left
        done.append(grant)
    return done


def _carried(account: Account, at: int) -> int:
    """Return what the last final statement carries, less what credit notes gave back since."""
    currency = _currency(account.versions)
    periods = {period.name: period for period in account.periods_until(at)}
    final = [s for s in account.statements([*periods][-1], at) if s["state"] == "final"]
    if not final:
        return 0
    last = final[-1]
    closed_at = periods[last["period"]].end + account.close_after
    since = [g for g in account.grants if milliseconds(g["created_at"]) >= closed_at]
    notes = sum(minor(g["amount"], currency) for g in since if g["kind"] == "credit_note")
    voids = sum(minor(g["takes"], currency) for g in since if g.get("grant", "").startswith("cn-"))
    return -minor(last["closing"]["carried"], currency) - notes + voids
