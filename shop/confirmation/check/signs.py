"""The signs that stand for quotations of the order's data. Of the private use area, which no text keeps otherwise."""

from __future__ import annotations

CUSTOMER = "\ue000"
ORDER_ID = "\ue001"
PLACE = "\ue002"
ESTIMATE = "\ue003"
SHOP = "\ue004"
MAIL = "\ue005"
FIRST_ITEM = "\ue100"
ITEM = "[\ue100-\uf8ff]"
"""Any item, as a pattern."""
