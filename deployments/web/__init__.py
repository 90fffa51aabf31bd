"""The parts of the web app."""
