"""A local web page to look through the samples of a folder of shards (`mimicit view`)."""
