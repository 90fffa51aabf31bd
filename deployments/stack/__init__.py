"""The embedded world: PostgreSQL, payment sandbox, Prefect server, deployments and worker, started and stopped together."""
