"""Generates the project's diagrams, in Mermaid and characters: the saga, its states, an order over time,
the components."""
