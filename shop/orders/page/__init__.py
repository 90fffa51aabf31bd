"""The history of one order, as a page and as diagrams. Reads only."""
