"""Add the states in which a meter event waits for an operator, and the operators' decisions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_open = sa.text("state IN ('planned', 'sent')")
_stuck = sa.text("state IN ('rejected', 'uncertain', 'altered')")
_STATES = (
    "state IN ('planned', 'sent', 'delivered', 'rejected', 'netted', 'cancelled', "
    "'uncertain', 'altered', 'released', 'settled')"
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        _copy_meter_events()
    else:
        op.drop_constraint("meter_event_state_check", "meter_event", type_="check")
        op.create_check_constraint("meter_event_state_check", "meter_event", _STATES)
    op.create_index(
        "meter_event_stuck",
        "meter_event",
        ["hour", "identifier"],
        sqlite_where=_stuck,
        postgresql_where=_stuck,
    )
    op.create_table(
        "delivery_decision",
        sa.Column("seq", _seq, sa.Identity(), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column(
            "action", sa.Text, sa.CheckConstraint("action IN ('release', 'settle')"), nullable=False
        ),
        sa.Column(
            "identifier",
            _id,
            sa.ForeignKey("meter_event.identifier"),
            nullable=False,
            unique=True,
        ),
        sa.Column("replaced_by", _id, sa.ForeignKey("meter_event.identifier")),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("stripe_checked", sa.Boolean, nullable=False),
        sa.Index("delivery_decision_replaced_by", "replaced_by"),
    )


def _copy_meter_events() -> None:
    """Copy the table, because SQLite cannot change a check: https://sqlite.org/lang_altertable.html.

    Foreign keys are off during an upgrade (`ledger.database.upgrade`), so those of other tables go
    on to name this table.
    """
    columns = (
        "identifier, tenantid, customer, outcome, event_name, hour, value, timestamp, body_sha256, "
        "state, owner, lease_until, created_at, updated_at"
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
    )
    op.execute(
        f"INSERT INTO meter_event_copy ({columns}) SELECT {columns} FROM meter_event"  # noqa: S608
    )
    op.drop_table("meter_event")
    op.rename_table("meter_event_copy", "meter_event")
    op.create_index("meter_event_open", "meter_event", ["hour", "identifier"], sqlite_where=_open)
