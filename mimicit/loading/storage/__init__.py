"""Where shards lie: folders and URLs, the cache of remote shards, and single samples by their row."""
