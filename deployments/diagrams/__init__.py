"""The project's diagrams, drawn from what they show: `python -m deployments.diagrams` writes the folder `diagrams/`."""
