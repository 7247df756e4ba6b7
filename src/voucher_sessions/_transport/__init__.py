"""All I/O: makes clients from URLs, sends calls and batches over clients, and runs the embedded server."""
