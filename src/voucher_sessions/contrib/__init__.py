"""Adapters to other packages, each optional. They use the public names of voucher_sessions alone."""
