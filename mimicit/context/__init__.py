"""Choosing the context of a query, and putting both together as a sample."""
