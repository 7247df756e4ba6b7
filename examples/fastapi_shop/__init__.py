"""A shop in FastAPI with a page for the browser: two carts, the last coupon, a countdown."""
