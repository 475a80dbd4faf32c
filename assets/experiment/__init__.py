"""One experiment as assets: its stages, their checks, and the policies they publish."""
