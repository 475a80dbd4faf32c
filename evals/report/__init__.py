"""`tbrm report`: one HTML file about an experiment, with everything in it and nothing fetched."""

from evals.report.page import write_report

__all__ = ["write_report"]
