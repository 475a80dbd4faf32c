"""The replay mix of a generation: from configuration to exactly which shards and rows train the next policy."""
