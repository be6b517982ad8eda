"""The published formats, each in a file of its own."""
