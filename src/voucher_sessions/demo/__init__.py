"""The demo of ``python -m voucher_sessions demo``.

``checkout`` is the part to read first: it is what an application does with the library.

    carts       the vouchers, and the carts that are planned for them
    checkout    what a checkout does with one cart
    workers     the processes that serve the carts, and the parent's view of them
    checks      what must be true at the end
    server      the server that the demo uses
    output      the lines that are printed
    run         the command itself
"""
