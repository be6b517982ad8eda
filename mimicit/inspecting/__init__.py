"""Looking at shards: counts, single samples, pictures."""
