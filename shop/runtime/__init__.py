"""Process infrastructure: files, logs, secrets, migrations, an HTTP server."""
