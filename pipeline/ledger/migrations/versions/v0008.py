"""File pending reversals under the time of the charge that they take back."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_unmatched = sa.text("missing_charge IS NOT NULL")


def upgrade() -> None:
    op.add_column("pending_record", sa.Column("missing_charge", _id))
    op.execute(
        "UPDATE pending_record SET missing_charge = (SELECT coalesce(r.supersedes, '') "
        "FROM usage_record AS r WHERE r.seq = pending_record.seq) WHERE quantity < 0"
    )
    op.execute(
        "UPDATE pending_record SET occurred_at = c.occurred_at, missing_charge = NULL "
        "FROM usage_record AS c WHERE c.id = pending_record.missing_charge AND c.quantity > 0 "
        "AND c.tenantid = pending_record.tenantid AND c.outcome = pending_record.outcome"
    )
    op.create_index(
        "pending_record_unmatched",
        "pending_record",
        ["missing_charge"],
        sqlite_where=_unmatched,
        postgresql_where=_unmatched,
    )
