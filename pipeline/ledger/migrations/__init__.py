"""Alembic migrations: forward only, one file a change."""
