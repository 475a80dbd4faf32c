"""Rewards: verifiers over model-written text, in workers that can be killed, so that every response gets a status."""
