"""The rules, without I/O: from arguments to a script with its keys and arguments, and from a reply to a result or an error."""
