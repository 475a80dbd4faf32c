"""Where the process of a stage runs, and who ends it."""
