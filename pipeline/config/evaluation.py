"""Which benchmarks measure the policies, by which protocol, and when."""

from pydantic import Field, field_validator

from pipeline.config.base import Config, DecidesByContent, DecidesNothing

SIX_BENCHMARKS = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")


class Protocol(Config):
    """How a benchmark is sampled. What is not given comes from the benchmark's own entry in the registry."""

    benchmark: str | None = None
    """The benchmark that is sampled. None: the one this entry is named after. Two entries may sample one benchmark by
    different protocols, e.g. `math500_sampled: {benchmark: math500, samples: 4, temperature: 1.0}`."""
    samples: int | None = Field(default=None, gt=0)
    """Responses to a problem: k of Avg@k."""
    temperature: float | None = Field(default=None, ge=0)
    """0 is greedy and needs `samples: 1`."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling. 1 switches it off."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest response in tokens. By default `rollouts.max_tokens`."""
    max_problems: int | None = Field(default=None, gt=0)
    """The first problems only, for a quick look; such scores are marked as those of a subset."""


class EvaluationConfig(Config):
    """Benchmarks of an experiment. Responses are stored and graded like rollouts, by the experiment's template."""

    benchmarks: tuple[str, ...] = Field(default=SIX_BENCHMARKS, min_length=1)
    """Names as in `tbrm benchmarks`, names of entries in `protocols`, or `heldout` (greedy) and `heldout_sampled` (4
    samples at temperature 1) for the problems that the experiment's prompt source keeps back."""
    source: DecidesByContent[str | None] = None
    """Folder with one JSONL file a benchmark. None: the Hugging Face hub at the pinned revisions."""
    protocols: dict[str, Protocol] = Field(default_factory=dict[str, Protocol])
    """Changes to the protocol, by benchmark; further entries, by their name."""
    responses_per_shard: DecidesNothing[int] = Field(default=1_024, gt=0)
    """Responses stored together: what a killed evaluation repeats at most."""
    endpoint_requests: DecidesNothing[int] = Field(default=32, gt=0)
    """Requests under way at once, where the policy is a server."""
    every: DecidesNothing[int] = Field(default=1, gt=0)
    """Evaluate after every so many generations; policy[0] and the last policy always are."""
    schedule: DecidesNothing[str | None] = None
    """Cron expression (UTC) of re-evaluations of the newest policy, e.g. `0 3 * * *`. None: at 03:00, once the schedule
    is switched on in the UI."""
    pinned: DecidesNothing[tuple[str, ...]] = ()
    """Policies that the schedule evaluates as well: Hugging Face folders, hub ids (`org/name@commit`), `package:NAME`,
    `builtin:NAME`, or servers (`http://host:8000/v1#model`)."""

    @field_validator("schedule")
    @classmethod
    def _cron(cls, text: str | None) -> str | None:
        if text is not None and not comes_due(text):
            raise ValueError(
                f"{text!r} is not a cron expression, or names a day that never comes: write minute (0 to 59), hour "
                "(0 to 23), day of month, month and day of week, as in `0 3 * * *`"
            )
        return text

    @field_validator("benchmarks")
    @classmethod
    def _named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"a benchmark is named twice in {list(names)}")
        return names


def comes_due(cron: str) -> bool:
    """Whether a cron expression is one that Dagster runs by, and a moment will come that it names."""
    from croniter import croniter  # the grammar that Dagster carries a copy of

    return bool(croniter.is_valid(cron, strict=True)) and len(croniter.expand(cron)[0]) == len("mhdMw")
