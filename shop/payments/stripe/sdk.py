"""Stripe's SDK without logs, which contain customers' data and client secrets, and without telemetry."""

from __future__ import annotations

import logging
import os

os.environ.pop("STRIPE_LOG", None)  # the SDK reads it on import
import stripe

stripe.enable_telemetry = False
stripe.log = None
logging.getLogger("stripe").setLevel(logging.WARNING)

__all__ = ["stripe"]
