"""What an answer says: its numbers, units, words and parts, read wholly or not at all, and when two answers agree."""
