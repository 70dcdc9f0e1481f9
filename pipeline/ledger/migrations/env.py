"""This file tells Alembic to use the connection of `database.upgrade`, and its transaction."""

from alembic import context

from pipeline.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
