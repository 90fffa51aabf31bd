"""What is generated in the documentation: diagrams of the saga, its states and components, code, the table of steps."""
