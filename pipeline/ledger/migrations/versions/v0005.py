"""Add what the journal says of meter events, and the records that it names before they are stored."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_unjournalled = sa.text(
    "(journal_state IS NULL OR (journal_state IN ('planned', 'rejected') "
    "AND state IN ('delivered', 'rejected', 'cancelled') AND state <> journal_state))"
)


def upgrade() -> None:
    op.add_column("meter_event", sa.Column("journal_state", sa.Text))
    op.add_column("meter_event", sa.Column("vouched_at", sa.BigInteger))
    op.add_column("meter_event", sa.Column("voucher", sa.Text))
    op.create_index(
        "meter_event_unjournalled",
        "meter_event",
        ["identifier"],
        sqlite_where=_unjournalled,
        postgresql_where=_unjournalled,
    )
    op.create_table(
        "awaited_record",
        sa.Column("id", _id, primary_key=True),
        sa.Column("identifier", _id, sa.ForeignKey("meter_event.identifier"), nullable=False),
    )
    op.create_table(
        "delivery_takeover",
        sa.Column("identifier", _id, sa.ForeignKey("meter_event.identifier"), primary_key=True),
        sa.Column("run", sa.Text, primary_key=True),
    )
