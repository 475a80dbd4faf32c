"""The rollout service: a vLLM engine that outlives the stage."""
