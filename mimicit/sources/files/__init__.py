"""The files under the source folder: opened safely, found by the names that records give them, and read."""
