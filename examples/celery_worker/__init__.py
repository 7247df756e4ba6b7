"""A Celery worker that redeems vouchers."""
