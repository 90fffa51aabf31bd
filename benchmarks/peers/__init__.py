"""Other ways to run the same six effects: DBOS, Restate, Prefect as documented, plain SQL."""
