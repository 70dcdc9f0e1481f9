"""Keep closings and approvals as the journal has them; no version could close a period before."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column(
        "account_grant",
        sa.Column("journalled", sa.Boolean, nullable=False, server_default=sa.text("false")),
    )
    op.drop_table("closing")
    op.create_table(
        "closing",
        sa.Column("seq", _seq, sa.Identity(), primary_key=True),
        sa.Column("account", _id, nullable=False),
        sa.Column("period_start", sa.BigInteger, nullable=False),
        sa.Column("period_end", sa.BigInteger, nullable=False),
        sa.Column("closed_at", sa.BigInteger, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("topic_id", sa.Text, nullable=False),
        sa.Column("customer", sa.Text, nullable=False),
        sa.Column("offsets", sa.Text, nullable=False),
        sa.Column("grants", sa.BigInteger, nullable=False),
        sa.Column("statement", sa.Text, nullable=False),
        sa.Column("waived", sa.Text, nullable=False),
        sa.Column("journalled", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.UniqueConstraint("account", "period_start", name="closing_once"),
    )
    op.create_table(
        "stated_record",
        sa.Column(
            "record_seq",
            _seq,
            sa.ForeignKey("usage_record.seq"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("closing_seq", _seq, sa.ForeignKey("closing.seq"), nullable=False),
    )
    op.create_table(
        "account_approval",
        sa.Column("account", _id, primary_key=True),
        sa.Column("id", _id, primary_key=True),
        sa.Column("period_start", sa.BigInteger, nullable=False),
        sa.Column(
            "what",
            sa.Text,
            sa.CheckConstraint("what IN ('adjusted', 'unmatched')"),
            nullable=False,
        ),
        sa.Column("of_period", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column(
            "verdict",
            sa.Text,
            sa.CheckConstraint("verdict IN ('approved', 'rejected')"),
            nullable=False,
        ),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("journalled", sa.Boolean, nullable=False, server_default=sa.text("false")),
    )
    op.create_table(
        "records_restart",
        sa.Column("seq", _seq, sa.Identity(), primary_key=True),
        sa.Column("partition", sa.Integer),
        sa.Column("topic_id", sa.Text),
        sa.Column("before_id", sa.Text),
        sa.Column("after_record", sa.BigInteger, nullable=False),
        sa.Column("after_closing", sa.BigInteger, nullable=False),
    )
