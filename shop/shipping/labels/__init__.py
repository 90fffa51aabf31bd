"""Labels: drawn for the embedded carrier's parcels when they are needed, fetched from other carriers."""
