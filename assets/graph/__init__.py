"""All experiments as one graph, with the sensors and schedules that drive it."""
