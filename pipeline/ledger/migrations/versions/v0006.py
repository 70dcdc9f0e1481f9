"""Add when a usage record was stored and at what price, and what statements are made from."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for name, of_type in (
        ("stored_at", sa.BigInteger),
        ("price", sa.Text),
        ("currency", sa.Text),
        ("priced_by", sa.Text),
    ):
        op.add_column("usage_record", sa.Column(name, of_type))
    op.create_table(
        "account_grant",
        sa.Column("seq", _seq, sa.Identity(), primary_key=True),
        sa.Column("account", _id, nullable=False),
        sa.Column("id", _id, nullable=False),
        sa.Column(
            "kind",
            sa.Text,
            sa.CheckConstraint("kind IN ('pack', 'credit', 'void')"),
            nullable=False,
        ),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )
    op.create_index(
        "account_grant_once",
        "account_grant",
        ["account", "id"],
        unique=True,
        sqlite_where=sa.text("kind <> 'void'"),
        postgresql_where=sa.text("kind <> 'void'"),
    )
    op.create_index(
        "account_grant_void_once",
        "account_grant",
        ["account", "id"],
        unique=True,
        sqlite_where=sa.text("kind = 'void'"),
        postgresql_where=sa.text("kind = 'void'"),
    )
    op.create_table(
        "closing",
        sa.Column("account", _id, primary_key=True),
        sa.Column("period_start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("closed_at", sa.BigInteger, nullable=False),
        sa.Column("records_seq", sa.BigInteger, nullable=False),
        sa.Column("statement", sa.Text, nullable=False),
    )
