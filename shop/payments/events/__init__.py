"""Webhook events of the payment gateway: the inbox and the handler."""
