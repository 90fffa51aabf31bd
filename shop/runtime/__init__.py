"""What a process of the shop needs beside its database: files, logs, secrets, an HTTP server."""
