"""`python -m deployments.diagram ORDER-1001`: one order as it went, as Mermaid, or with `--ascii` for the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from deployments.running import use_running_world
from shop.database import is_database_trouble
from shop.pictures.order_boxes import order_boxes
from shop.pictures.order_diagram import order_diagram
from shop.pictures.order_story import read_story_sync
from shop.pictures.words import for_terminal
from shop.plain import tame
from shop.settings import settings, what_is_wrong

use_running_world()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0: it is printed. 1: there is no such order, the settings are wrong, or the database does not answer."""
    parser = argparse.ArgumentParser(prog="python -m deployments.diagram", description="Draws one order as it went.")
    parser.add_argument("order_id", metavar="ORDER", help="the order's id, such as ORDER-1001")
    parser.add_argument("--ascii", action="store_true", help="boxes for the terminal, instead of Mermaid")
    options = parser.parse_args(arguments)
    try:
        settings()
        from flows.saga import ORDER_SAGA

        story = read_story_sync(options.order_id)
    except ValidationError as error:
        return _sorry(what_is_wrong(error))
    except DBAPIError as error:
        if not is_database_trouble(error):
            raise
        return _sorry(f"The database does not answer ({type(error.orig).__name__}). Is `make run` running, or DATABASE_URL right?")
    if story is None:
        return _sorry(f"There is no order {for_terminal(options.order_id)}. Ids are spelled exactly, upper and lower case too.")
    sys.stdout.write(tame(order_boxes(story, ORDER_SAGA) if options.ascii else order_diagram(story, ORDER_SAGA)))
    return 0


def _sorry(why: str) -> int:
    sys.stderr.write(f"{tame(why)}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
