"""Alembic migrations: forward only, one file for each change."""
