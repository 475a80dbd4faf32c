"""The `tbrm` command, one module a command."""
