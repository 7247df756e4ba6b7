"""All I/O: makes clients from URLs, sends calls and batches, and runs the embedded server.

How a call is sent
==================

``sync.py`` and ``aio.py`` have the transport of an engine. It makes a call wait while four others change the same key
(``keys_in_use.py``), sends it, and sends it again after a failure (``retries.py``; on clusters and with Sentinel, for
30 seconds). For the sending itself it has one of two senders, which have the same methods:

    sync_client.py       aio_client.py        through the client of the application
    sync_connections.py  aio_connections.py   over connections of the engine's own, if ``own_connections.py`` allows it

The engine's own connections to a server are a stack from which each call of a thread takes one
(``connection_stack.py``), or one connection that all tasks of an event loop share (``shared_connection.py``). Changes
that must be confirmed have a second shared connection, on which they are sent in groups (``group_commit.py``).

Whoever sends a command sets ``may_have_run`` of its call when the server may have run it and its reply was not read.
That alone decides whether a change whose connection failed raises ``OutcomeUnknown`` or ``ServerUnavailable``. It is
never reset: a later try that was not sent does not undo an earlier one.
"""
