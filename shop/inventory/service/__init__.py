"""An inventory service over HTTP: its client, its wire format, its books."""
