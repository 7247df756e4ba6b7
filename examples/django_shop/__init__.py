"""A shop with Django that takes vouchers."""
