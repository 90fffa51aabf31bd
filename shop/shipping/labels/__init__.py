"""PDF labels: those of the embedded carrier, and their storage for all carriers."""
