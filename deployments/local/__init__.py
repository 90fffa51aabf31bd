"""Starts everything on this machine (`make run`): PostgreSQL, Prefect server, worker, web app, sandbox."""
