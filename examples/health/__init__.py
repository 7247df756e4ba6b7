"""Health checks, and what a shop answers while its server is down."""
