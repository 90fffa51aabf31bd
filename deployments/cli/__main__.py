"""Runs `order-saga` as `python -m deployments.cli`, where the package is not installed."""

from deployments.cli import main

if __name__ == "__main__":
    main()
