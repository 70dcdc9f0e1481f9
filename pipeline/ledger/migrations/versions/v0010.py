"""Add what is needed to withdraw a meter event."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_open = sa.text("state IN ('planned', 'sent', 'withdrawing')")
_stuck = sa.text("state IN ('rejected', 'uncertain', 'altered')")
_unjournalled = sa.text(
    "(journal_state IS NULL OR (journal_state IN ('planned', 'rejected') "
    "AND state IN ('delivered', 'rejected', 'cancelled') AND state <> journal_state) "
    "OR (journal_state = 'withdrawing' AND state IN ('withdrawn', 'delivered')) "
    "OR (journal_state = 'kept' AND state = 'withdrawn'))"
)
_STATES = (
    "state IN ('planned', 'sent', 'delivered', 'rejected', 'netted', 'cancelled', "
    "'uncertain', 'altered', 'released', 'settled', 'withdrawing', 'withdrawn')"
)
_CALLS = "call IN ('deliver', 'withdraw')"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _copy_meter_events()
    else:
        op.drop_constraint("meter_event_state_check", "meter_event", type_="check")
        op.create_check_constraint("meter_event_state_check", "meter_event", _STATES)
        op.add_column("meter_event", sa.Column("withdraw_until", sa.BigInteger))
        op.drop_index("meter_event_open", "meter_event")
        op.drop_index("meter_event_unjournalled", "meter_event")
    op.add_column(
        "attempt",
        sa.Column(
            "call", sa.Text, sa.CheckConstraint(_CALLS), nullable=False, server_default="deliver"
        ),
    )
    op.create_index(
        "meter_event_open",
        "meter_event",
        ["hour", "identifier"],
        sqlite_where=_open,
        postgresql_where=_open,
    )
    op.create_index(
        "meter_event_unjournalled",
        "meter_event",
        ["identifier"],
        sqlite_where=_unjournalled,
        postgresql_where=_unjournalled,
    )
    op.create_table(
        "withdrawn_record",
        sa.Column("id", _id, primary_key=True),
        sa.Column("identifier", _id, sa.ForeignKey("meter_event.identifier"), primary_key=True),
        sa.Index("withdrawn_record_identifier", "identifier"),
    )


def _copy_meter_events() -> None:
    """Copy the table, because SQLite cannot change a check: https://sqlite.org/lang_altertable.html.

    Foreign keys are off during an upgrade (`ledger.database.upgrade`), so those of other tables go
    on to name this table.
    """
    columns = (
        "identifier, tenantid, customer, outcome, event_name, hour, value, timestamp, body_sha256, "
        "state, owner, lease_until, created_at, updated_at, journal_state, vouched_at, voucher"
    )
    op.create_table(
        "meter_event_copy",
        sa.Column("identifier", _id, primary_key=True),
        sa.Column("tenantid", sa.Text, nullable=False),
        sa.Column("customer", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("event_name", sa.Text, nullable=False),
        sa.Column("hour", sa.BigInteger, nullable=False),
        sa.Column("value", sa.BigInteger, sa.CheckConstraint("value >= 0"), nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("body_sha256", sa.Text, nullable=False),
        sa.Column("state", sa.Text, sa.CheckConstraint(_STATES), nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("journal_state", sa.Text),
        sa.Column("vouched_at", sa.BigInteger),
        sa.Column("voucher", sa.Text),
        sa.Column("withdraw_until", sa.BigInteger),
    )
    op.execute(
        f"INSERT INTO meter_event_copy ({columns}) SELECT {columns} FROM meter_event"  # noqa: S608
    )
    op.drop_table("meter_event")
    op.rename_table("meter_event_copy", "meter_event")
    op.create_index("meter_event_stuck", "meter_event", ["hour", "identifier"], sqlite_where=_stuck)
