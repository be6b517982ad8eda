"""Shards, `datasets` and the Hugging Face Hub: the one as the other, both ways. Needs the extra ``hub``."""
