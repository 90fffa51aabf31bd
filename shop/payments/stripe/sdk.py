"""Stripe's SDK, kept quiet: its logs have customers' data and client secrets in them, and its telemetry is nobody's business."""

from __future__ import annotations

import logging
import os

os.environ.pop("STRIPE_LOG", None)  # read by the SDK as it is imported
import stripe

stripe.enable_telemetry = False
stripe.log = None
logging.getLogger("stripe").setLevel(logging.WARNING)

__all__ = ["stripe"]
