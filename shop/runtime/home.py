"""The project's folder."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
"""Where `var/` and `.env` are by default: the checkout, or where the package was installed."""
