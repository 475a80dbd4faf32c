"""What the pages of the Dagster UI show of an asset."""
