"""The steps of the order saga: one file for each, the task and its compensation side by side."""
