"""The project's diagrams, generated: Mermaid and characters of the saga, its states, an order's course in time, the components."""
