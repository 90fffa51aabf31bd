"""The project's folder."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
"""The default folder of `var/` and `.env`: the checkout, or the folder in which the package is installed."""
