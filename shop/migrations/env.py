"""Alembic's entry: runs the migrations on the connection that `shop.runtime.migrate` gives it."""

from alembic import context
from sqlmodel import SQLModel

import shop.tables  # noqa: F401  (fills the metadata)

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=SQLModel.metadata, compare_type=True, compare_server_default=False
)
with context.begin_transaction():
    context.run_migrations()
