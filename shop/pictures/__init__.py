"""What the UI and the report show: one order as it went, the figures of the shop. Reads only."""
