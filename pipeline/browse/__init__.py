"""Looking at what a store holds."""
