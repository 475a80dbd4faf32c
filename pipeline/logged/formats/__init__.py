"""Logs of known systems, each by its name. docs/import.md has the table of what is kept of each and what is lost."""

from pipeline.logged.formats import evaluations, published, rollout_text, rollout_tokens, traces
from pipeline.logged.formats.base import Format

FORMATS: dict[str, Format] = {
    each.name: each
    for module in (rollout_text, rollout_tokens, traces, evaluations, published)
    for each in module.FORMATS
}
