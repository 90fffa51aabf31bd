"""The methods of payment that an order may name."""

from __future__ import annotations

CHARGED = ("credit_card", "debit_card", "paypal", "apple_pay", "google_pay")
"""Methods that the payment gateway charges."""
ALREADY_PAID = "already_paid"
"""The shop has the money, or its payment provider has it for the shop."""
BANK_TRANSFER = "bank_transfer"
CASH_ON_DELIVERY = "cash_on_delivery"
METHODS = (*CHARGED, ALREADY_PAID, BANK_TRANSFER, CASH_ON_DELIVERY)

GIFT_CARD, STORE_CREDIT = "gift_card", "store_credit"
PART_METHODS = (GIFT_CARD, STORE_CREDIT, "other")
"""What can have paid a part of an order."""
