"""A model under DeepSpeed: wrapped, saved, restored and exported."""
