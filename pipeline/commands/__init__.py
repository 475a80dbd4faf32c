"""One module per `tbrm` command group of the data plane."""
