"""A shop in FastAPI with a checkout of its own, and the vouchers' API for its other programs."""
