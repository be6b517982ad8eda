"""Vectors of texts and pictures, and which of them are alike."""
