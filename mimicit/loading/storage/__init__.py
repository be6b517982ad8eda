"""Where shards lie: folders and URLs, the cache of those, and single samples by their row."""
