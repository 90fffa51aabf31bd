"""What `make run` starts on this machine: PostgreSQL, Prefect server, worker, web app, sandbox gateway."""
