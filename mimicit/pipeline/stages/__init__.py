"""The stages of a build: each reads tables and writes new ones (see `mimicit.pipeline.tables`)."""
