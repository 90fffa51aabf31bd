"""What the shop is connected to: what is real, what is embedded, what is misconfigured."""
