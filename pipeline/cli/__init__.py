"""The `tbrm` command, and those of its subcommands that belong to the data plane."""
