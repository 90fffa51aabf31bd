"""`python -m deployments.migrate`: `python -m shop.migrate`, also with the database's address in a Prefect block (`DATABASE_URL_BLOCK`).

The shop imports nothing of Prefect; whatever is in this package reads blocks.
"""

from __future__ import annotations

from shop.migrate import main

if __name__ == "__main__":
    main("python -m deployments.migrate")
