"""All I/O: from a URL to a client, how calls travel over it, and the embedded server."""
