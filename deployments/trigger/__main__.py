"""Runs `order-saga submit FILE` as `python -m deployments.trigger FILE`."""

import sys

from deployments.cli import order_saga

if __name__ == "__main__":
    sys.exit(order_saga(["submit", *sys.argv[1:]]))
