"""An inventory service over HTTP: contract, client, wire format, SQL implementation, reconciliation."""
