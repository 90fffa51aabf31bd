"""One order as it went, as a page and as diagrams. Reads only."""
