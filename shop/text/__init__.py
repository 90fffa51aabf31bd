"""Text from outside, made safe: control characters, card numbers, customer data, domains."""
