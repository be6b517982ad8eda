"""From records as they were published to triplets: what fields mean, in whatever format."""
