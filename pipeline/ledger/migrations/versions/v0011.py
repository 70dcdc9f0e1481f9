"""Credit notes are grants too: the kind of a grant may be `credit_note`."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_KINDS = "kind IN ('pack', 'credit', 'credit_note', 'void')"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("account_grant_kind_check", "account_grant", type_="check")
        op.create_check_constraint("account_grant_kind_check", "account_grant", _KINDS)
        return
    # SQLite changes no constraint: the table is made again.
    op.drop_index("account_grant_once", "account_grant")
    op.drop_index("account_grant_void_once", "account_grant")
    op.rename_table("account_grant", "account_grant_before")
    op.create_table(
        "account_grant",
        sa.Column("seq", _seq, sa.Identity(), primary_key=True),
        sa.Column("account", _id, nullable=False),
        sa.Column("id", _id, nullable=False),
        sa.Column("kind", sa.Text, sa.CheckConstraint(_KINDS), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("journalled", sa.Boolean, nullable=False, server_default=sa.text("false")),
    )
    op.execute(
        "INSERT INTO account_grant (seq, account, id, kind, created_at, content, journalled) "
        "SELECT seq, account, id, kind, created_at, content, journalled FROM account_grant_before"
    )
    op.drop_table("account_grant_before")
    for name, kind in (("account_grant_once", "<>"), ("account_grant_void_once", "=")):
        op.create_index(
            name,
            "account_grant",
            ["account", "id"],
            unique=True,
            sqlite_where=sa.text(f"kind {kind} 'void'"),
        )
