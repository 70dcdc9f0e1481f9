"""Keep the invoices of closed periods as the journal has them: what is added, and what they came to."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "invoice",
        sa.Column("account", _id, primary_key=True),
        sa.Column("period_start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("is_own", sa.Boolean, primary_key=True, autoincrement=False),
        sa.Column("customer", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("items", sa.Text, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("settled", sa.BigInteger, nullable=False),
        sa.Column("invoice", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("journalled", sa.Boolean, nullable=False),
    )
    op.create_table(
        "invoice_result",
        sa.Column("account", _id, primary_key=True),
        sa.Column("period_start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("is_own", sa.Boolean, primary_key=True, autoincrement=False),
        sa.Column(
            "state",
            sa.Text,
            sa.CheckConstraint("state IN ('invoiced', 'missed', 'without')"),
            nullable=False,
        ),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("invoice", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("journalled", sa.Boolean, nullable=False),
    )
