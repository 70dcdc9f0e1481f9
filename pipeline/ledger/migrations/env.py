"""Run Alembic's migrations in the connection and transaction of `database.upgrade`."""

from alembic import context

from pipeline.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
