"""From samples to batches of token ids, labels and pictures."""
