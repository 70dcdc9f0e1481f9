"""Create the first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_open = sa.text("state IN ('planned', 'sent')")


def upgrade() -> None:
    _create_records()
    _create_deliveries()


def _create_records() -> None:
    op.create_table(
        "usage_record",
        sa.Column("seq", _seq, sa.Identity(), primary_key=True),
        sa.Column("id", _id, nullable=False, unique=True),
        sa.Column("tenantid", sa.Text, nullable=False),
        sa.Column("conversation", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column(
            "quantity", sa.Integer, sa.CheckConstraint("quantity IN (1, -1)"), nullable=False
        ),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("policy_version", sa.BigInteger, nullable=False),
        sa.Column("evidence", sa.Text, nullable=False),
        sa.Column("supersedes", _id),
        sa.Column("record_topic", sa.Text, nullable=False),
        sa.Column("record_partition", sa.Integer, nullable=False),
        sa.Column("record_offset", sa.BigInteger, nullable=False),
        sa.Column("origin_topic", sa.Text),
        sa.Column("origin_partition", sa.Integer),
        sa.Column("origin_offsets", sa.Text),
    )
    op.create_table(
        "refused_record",
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("value", sa.LargeBinary),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "consumer_offset",
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "pending_record",
        sa.Column("tenantid", sa.Text, primary_key=True),
        sa.Column("outcome", sa.Text, primary_key=True),
        sa.Column("occurred_at", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.Column("stored_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _create_deliveries() -> None:
    op.create_table(
        "meter_event",
        sa.Column("identifier", _id, primary_key=True),
        sa.Column("tenantid", sa.Text, nullable=False),
        sa.Column("customer", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("event_name", sa.Text, nullable=False),
        sa.Column("hour", sa.BigInteger, nullable=False),
        sa.Column("value", sa.BigInteger, sa.CheckConstraint("value >= 0"), nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False),
        sa.Column("body_sha256", sa.Text, nullable=False),
        sa.Column(
            "state",
            sa.Text,
            sa.CheckConstraint(
                "state IN ('planned', 'sent', 'delivered', 'rejected', 'netted', 'cancelled')"
            ),
            nullable=False,
        ),
        sa.Column("owner", sa.Text),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "meter_event_open",
        "meter_event",
        ["hour", "identifier"],
        sqlite_where=_open,
        postgresql_where=_open,
    )
    op.create_table(
        "meter_event_record",
        sa.Column(
            "record_seq",
            _seq,
            sa.ForeignKey("usage_record.seq"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("identifier", _id, sa.ForeignKey("meter_event.identifier"), nullable=False),
    )
    op.create_index("meter_event_record_identifier", "meter_event_record", ["identifier"])
    op.create_table(
        "attempt",
        sa.Column("seq", _seq, sa.Identity(), primary_key=True),
        sa.Column("identifier", _id, sa.ForeignKey("meter_event.identifier"), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("body_sha256", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text, nullable=False),
        sa.Column("answered_at", sa.BigInteger),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("http_status", sa.Integer),
        sa.Column("replayed", sa.Boolean, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("detail", sa.Text),
    )
    op.create_index("attempt_identifier", "attempt", ["identifier"])
