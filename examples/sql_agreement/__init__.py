"""Orders in SQL, vouchers in Redis."""
