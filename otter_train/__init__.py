"""Otter: training, generation and evaluation on the shards that mimicit builds."""
