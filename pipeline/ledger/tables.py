"""Declare the tables. Migrations create them, and a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

# A range of ids must be in byte order on every database; SQLite's order is that by default.
_Id = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite numbers rows only in a column of the type INTEGER.
_Seq = BigInteger().with_variant(Integer(), "sqlite")

_open = text("state IN ('planned', 'sent', 'withdrawing')")
_stuck = text("state IN ('rejected', 'uncertain', 'altered')")
# What the journal does not have yet. A query must use the same words, or it cannot use the index.
unjournalled = text(
    "(journal_state IS NULL OR (journal_state IN ('planned', 'rejected') "
    "AND state IN ('delivered', 'rejected', 'cancelled') AND state <> journal_state) "
    "OR (journal_state = 'withdrawing' AND state IN ('withdrawn', 'delivered')) "
    "OR (journal_state = 'kept' AND state = 'withdrawn'))"
)

usage_record = Table(
    "usage_record",
    metadata,
    Column("seq", _Seq, Identity(), primary_key=True),  # order of arrival in this ledger
    Column("id", _Id, nullable=False, unique=True),
    Column("tenantid", Text, key="tenant_id", nullable=False),
    Column("conversation", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("quantity", Integer, CheckConstraint("quantity IN (1, -1)"), nullable=False),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    Column("policy", Text, nullable=False),
    Column("policy_version", BigInteger, nullable=False),
    Column("evidence", Text, nullable=False),  # a JSON array of event ids
    Column("supersedes", _Id),
    # The position of the record in Kafka.
    Column("record_topic", Text, nullable=False),
    Column("record_partition", Integer, nullable=False),
    Column("record_offset", BigInteger, nullable=False),
    # The position of its evidence; null for a record without the header `resmeter-origin`.
    Column("origin_topic", Text),
    Column("origin_partition", Integer),
    Column("origin_offsets", Text),  # a JSON array, parallel to `evidence`
    # Null for a record that an earlier version stored.
    Column("stored_at", BigInteger),
    # The price of its policy version when it was stored; null: the catalog had none.
    Column("price", Text),
    Column("currency", Text),
    Column("priced_by", Text),  # the digest of the catalog's entry with the price
)

_of_void = text("kind = 'void'")
_of_grant = text("kind <> 'void'")

# Packs, credits and voids, never changed.
account_grant = Table(
    "account_grant",
    metadata,
    Column("seq", _Seq, Identity(), primary_key=True),
    Column("account", _Id, nullable=False),
    Column("id", _Id, nullable=False),  # of a void: the grant that it ends
    Column(
        "kind",
        Text,
        CheckConstraint("kind IN ('pack', 'credit', 'credit_note', 'void')"),
        nullable=False,
    ),
    Column("created_at", BigInteger, nullable=False),
    Column("content", Text, nullable=False),  # a line of grants, see docs/reference/money.md §5.1
    # Whether the journal that the ledger follows has it.
    Column("journalled", Boolean, nullable=False, server_default=text("false")),
    Index(
        "account_grant_once",
        "account",
        "id",
        unique=True,
        sqlite_where=_of_grant,
        postgresql_where=_of_grant,
    ),
    Index(
        "account_grant_void_once",
        "account",
        "id",
        unique=True,
        sqlite_where=_of_void,
        postgresql_where=_of_void,
    ),
)

# The periods that are closed, each with its final statement, never changed; see `journal`.
closing = Table(
    "closing",
    metadata,
    Column("seq", _Seq, Identity(), primary_key=True),  # in the order of the journal
    Column("account", _Id, nullable=False),
    Column("period_start", BigInteger, nullable=False),
    Column("period_end", BigInteger, nullable=False),
    Column("closed_at", BigInteger, nullable=False),
    Column("topic", Text, nullable=False),  # of the usage records
    Column("topic_id", Text, nullable=False),  # empty: unknown
    Column("customer", Text, nullable=False),  # of this account alone; empty: none
    Column("offsets", Text, nullable=False),  # a JSON object: partition → next offset
    Column("grants", BigInteger, nullable=False),  # how many grants and voids it knew
    Column("statement", Text, nullable=False),  # the JSON object
    Column("waived", Text, nullable=False),  # a JSON array: starts of earlier periods
    Column("journalled", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("account", "period_start", name="closing_once"),
)

# Usage records that are on a final statement, and in no meter event; nothing is sent for them.
stated_record = Table(
    "stated_record",
    metadata,
    Column(
        "record_seq", _Seq, ForeignKey("usage_record.seq"), primary_key=True, autoincrement=False
    ),
    Column("closing_seq", _Seq, ForeignKey("closing.seq"), nullable=False),
)

# What persons said about adjustments and unmatched reversals, once each; see `journal`.
account_approval = Table(
    "account_approval",
    metadata,
    Column("account", _Id, primary_key=True),
    Column("id", _Id, primary_key=True),
    Column("period_start", BigInteger, nullable=False),
    Column("what", Text, CheckConstraint("what IN ('adjusted', 'unmatched')"), nullable=False),
    Column("of_period", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("verdict", Text, CheckConstraint("verdict IN ('approved', 'rejected')"), nullable=False),
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("journalled", Boolean, nullable=False, server_default=text("false")),
)

# Where the offsets of usage records begin again: the topic, or a partition of it, is another one.
records_restart = Table(
    "records_restart",
    metadata,
    Column("seq", _Seq, Identity(), primary_key=True),
    Column("partition", Integer),  # null: all
    Column("topic_id", Text),  # of the topic from then on; null: the same
    Column("before_id", Text),  # of the topic before; null: the same, or unknown
    Column("after_record", BigInteger, nullable=False),  # the last usage record before
    Column("after_closing", BigInteger, nullable=False),  # the last closing before
)

# The quarantined records, under the name that existing databases have.
refused_record = Table(
    "refused_record",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("value", LargeBinary),
    Column("reason", Text, nullable=False),  # unreadable, conflict
    Column("detail", Text, nullable=False),
)

# A place in a topic, or in the catalog's log (`priced_under`).
consumer_offset = Table(
    "consumer_offset",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
)

# The id of the topic in which the offsets of `consumer_offset` mean something.
consumed_topic = Table(
    "consumed_topic",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("topic_id", Text, nullable=False),
)

# Partitions that another ledger of the same sinks had stored further; see `holds`.
delivery_hold = Table(
    "delivery_hold",
    metadata,
    Column("seq", _Seq, Identity(), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("ledger_offset", BigInteger),  # null: this ledger had none
    Column("reached_offset", BigInteger, nullable=False),
    Column("noticed_at", BigInteger, nullable=False),
    # What an operator said; null while the deliveries are held. See `holds.Answer`.
    Column("answer", Text),
    Column("answered_by", Text),
    Column("reason", Text),
    Column("answered_at", BigInteger),
)

_unmatched = text("missing_charge IS NOT NULL")

pending_record = Table(
    "pending_record",
    metadata,
    Column("tenantid", Text, key="tenant_id", primary_key=True),
    Column("outcome", Text, primary_key=True),
    # The time of the unit; see `pending`.
    Column("occurred_at", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("quantity", Integer, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    # Of a -1: the charge that the ledger lacks; empty if the -1 names none; null if all is known.
    Column("missing_charge", _Id),
    Index(
        "pending_record_unmatched",
        "missing_charge",
        sqlite_where=_unmatched,
        postgresql_where=_unmatched,
    ),
    sqlite_with_rowid=False,
)

meter_event = Table(
    "meter_event",
    metadata,
    Column("identifier", _Id, primary_key=True),
    Column("tenantid", Text, key="tenant_id", nullable=False),
    Column("customer", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("event_name", Text, nullable=False),
    Column("hour", BigInteger, nullable=False),  # hours since the epoch
    Column("value", BigInteger, CheckConstraint("value >= 0"), nullable=False),
    Column("timestamp", BigInteger, nullable=False),  # seconds, within the hour
    Column("body_sha256", Text, nullable=False),
    Column(
        "state",  # see `entries.State`
        Text,
        CheckConstraint(
            "state IN ('planned', 'sent', 'delivered', 'rejected', 'netted', 'cancelled', "
            "'uncertain', 'altered', 'released', 'settled', 'withdrawing', 'withdrawn')"
        ),
        nullable=False,
    ),
    Column("owner", Text),  # the sink that holds the lease, until `lease_until`
    Column("lease_until", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # What the journal says of it, see `journal.Standing`; null until its plan was read back.
    Column("journal_state", Text),
    Column("vouched_at", BigInteger),
    Column("voucher", Text),
    # When the first call that withdraws it may be made at the latest, ms; null: nobody asked for one.
    Column("withdraw_until", BigInteger),
    Index(
        "meter_event_unjournalled",
        "identifier",
        sqlite_where=unjournalled,
        postgresql_where=unjournalled,
    ),
    Index("meter_event_open", "hour", "identifier", sqlite_where=_open, postgresql_where=_open),
    Index("meter_event_stuck", "hour", "identifier", sqlite_where=_stuck, postgresql_where=_stuck),
)

meter_event_record = Table(
    "meter_event_record",
    metadata,
    Column(
        "record_seq", _Seq, ForeignKey("usage_record.seq"), primary_key=True, autoincrement=False
    ),
    Column("identifier", _Id, ForeignKey("meter_event.identifier"), nullable=False),
    Index("meter_event_record_identifier", "identifier"),
)

# Usage records of a meter event that the ledger has not stored yet: they will not be pending.
awaited_record = Table(
    "awaited_record",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("identifier", _Id, ForeignKey("meter_event.identifier"), nullable=False),
)

# The usage records of a meter event that was withdrawn: they were pending again, and may be in others.
withdrawn_record = Table(
    "withdrawn_record",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("identifier", _Id, ForeignKey("meter_event.identifier"), primary_key=True),
    Index("withdrawn_record_identifier", "identifier"),
)

# The runs that took over an open meter event, and may call it; see `journal.Takeover`.
delivery_takeover = Table(
    "delivery_takeover",
    metadata,
    Column("identifier", _Id, ForeignKey("meter_event.identifier"), primary_key=True),
    Column("run", Text, primary_key=True),
)

attempt = Table(
    "attempt",
    metadata,
    Column("seq", _Seq, Identity(), primary_key=True),
    Column("identifier", _Id, ForeignKey("meter_event.identifier"), nullable=False),
    Column("at", BigInteger, nullable=False),  # written before the call is made
    Column("owner", Text, nullable=False),
    Column(
        "call",  # see `entries.Call`
        Text,
        CheckConstraint("call IN ('deliver', 'withdraw')"),
        nullable=False,
        server_default="deliver",
    ),
    Column("body_sha256", Text, nullable=False),  # of the meter event
    Column("idempotency_key", Text, nullable=False),
    Column("answered_at", BigInteger),
    Column("result", Text, nullable=False),  # see `entries.Result`
    Column("http_status", Integer),
    Column("replayed", Boolean, nullable=False),  # the response to an earlier call with this key
    Column("request_id", Text),
    Column("detail", Text),
    Index("attempt_identifier", "identifier"),
)

# What an operator decided about a meter event, once. A decision is replaced only if the journal has an
# earlier one, which another ledger wrote.
delivery_decision = Table(
    "delivery_decision",
    metadata,
    Column("seq", _Seq, Identity(), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("action", Text, CheckConstraint("action IN ('release', 'settle')"), nullable=False),
    Column("identifier", _Id, ForeignKey("meter_event.identifier"), nullable=False, unique=True),
    Column("replaced_by", _Id, ForeignKey("meter_event.identifier")),  # of a release
    Column("state", Text, nullable=False),  # of the meter event before the decision
    Column("who", Text, nullable=False),
    Column("reason", Text, nullable=False),
    # The operator says to have compared Stripe's sum: the meter event may have been counted.
    Column("stripe_checked", Boolean, nullable=False),
    Index("delivery_decision_replaced_by", "replaced_by"),
)

# What is added to the invoice of a closed period, or to one of our own; see `journal`.
invoice = Table(
    "invoice",
    metadata,
    Column("account", _Id, primary_key=True),
    Column("period_start", BigInteger, primary_key=True, autoincrement=False),
    Column("is_own", Boolean, primary_key=True, autoincrement=False),
    Column("customer", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("items", Text, nullable=False),  # a JSON array
    Column("total", BigInteger, nullable=False),  # in minor units
    Column("settled", BigInteger, nullable=False),  # in minor units
    Column("invoice", Text, nullable=False),  # its id at the biller; empty: one of our own
    Column("key", Text, nullable=False),  # of one of our own
    Column("journalled", Boolean, nullable=False),
)

# What these invoices came to; see `journal`.
invoice_result = Table(
    "invoice_result",
    metadata,
    Column("account", _Id, primary_key=True),
    Column("period_start", BigInteger, primary_key=True, autoincrement=False),
    Column("is_own", Boolean, primary_key=True, autoincrement=False),
    Column(
        "state",
        Text,
        CheckConstraint("state IN ('invoiced', 'missed', 'without')"),
        nullable=False,
    ),
    Column("at", BigInteger, nullable=False),  # ms
    Column("invoice", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),  # in minor units
    Column("journalled", Boolean, nullable=False),
)
