"""What users start: `tbrm run` and `tbrm ui`."""
