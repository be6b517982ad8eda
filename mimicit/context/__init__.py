"""Choose the context of a query."""
