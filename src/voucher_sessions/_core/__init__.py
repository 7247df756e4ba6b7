"""Everything that needs no I/O: it turns a method's arguments into a script call, and the reply into a result or an error."""
