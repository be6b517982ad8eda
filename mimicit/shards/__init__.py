"""The shard format: tar members, index, manifest, verification."""
