"""Everything that needs no I/O: makes a script call from arguments, and a result or an error from the reply."""
