"""The demo of ``python -m voucher_sessions demo``: what a checkout does is in ``carts``, how the demo runs in ``run``."""
