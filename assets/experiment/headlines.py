"""What the page of an asset says first: its few numbers, rounded, each with its unit and, where there is one, interval.

Everything else that a stage reports stands in one entry of the page. Nothing here imports Dagster.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evals.report.history import sampled_reward
from evals.statistics.intervals import Interval, share_interval
from pipeline.run.resumable import Metric
from pipeline.store import Store

Metrics = Mapping[str, Metric]
ACCURACY = "_accuracy"
_ENOUGH = 6
"""A page that has this many numbers gets no more of a lesser kind."""
_DIGITS = 3


@dataclass(frozen=True)
class Headline:
    """A number, its unit, and the ends of its 95% interval where it has one."""

    name: str
    unit: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def label(self) -> str:
        """`sampled reward, %`: how the number is called where nothing else stands beside it."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


Headlines = Callable[[Metrics, Store, str, int], Sequence[Headline]]
"""(what the stage reports, the store, the experiment's name, the generation of the stage) -> its numbers."""


def no_headlines(_metrics: Metrics, _store: Store, _name: str, _generation: int) -> list[Headline]:
    """A stage whose rows and seconds say everything."""
    return []


def rollouts_headlines(metrics: Metrics, store: Store, name: str, generation: int) -> list[Headline]:
    """How long responses are, how many are cut, how varied they are, and how far sampler and trainer differ."""
    cut = share_interval(float(metrics["truncated_share"]), _prompts(store, name, generation))
    return [
        Headline("response length", "tokens", float(metrics["mean_response_tokens"])),
        _percent("cut at the limit", cut),
        *_of(metrics, ("entropy", "nats a token", "entropy_per_token")),
        *_of(metrics, ("sampler against trainer", "nats a token", "agreement_mean_gap")),
        *_of(metrics, ("sampled", "tokens", "response_tokens")),
    ]


def rewards_headlines(metrics: Metrics, store: Store, name: str, generation: int) -> list[Headline]:
    """What the policy earned, and how far the verdicts can be relied on."""
    undecided = share_interval(float(metrics["undecided_share"]), _prompts(store, name, generation))
    audited = metrics.get("audit_disagreement_share")
    return [
        _percent("sampled reward", sampled_reward(store, name, generation)),
        *_of(metrics, ("spread of the rewards", "", "reward_std")),
        _percent("without a verdict", undecided),
        *([Headline("audit disagrees", "%", 100 * float(audited))] if audited is not None else []),
    ]


def reference_headlines(metrics: Metrics, _store: Store, _name: str, _generation: int) -> list[Headline]:
    """How far the sampling policy is from the reference, on its own samples."""
    return _of(
        metrics,
        ("KL to the reference", "nats a response", "behaviour_kl"),
        ("log π_ref", "nats a response", "ref_logprob_sum_mean"),
        ("V_ref(s₁)", "nats", "ref_value_first_mean"),
    )


def training_headlines(metrics: Metrics, _store: Store, _name: str, _generation: int) -> list[Headline]:
    """What the policy was trained on, and how the loss took it: means over the updates."""
    reward = metrics.get("reward")
    return [
        *([Headline("reward of the mix", "%", 100 * float(reward))] if reward is not None else []),
        *_of(
            metrics,
            ("size of the residual", "nats", "residual_abs"),
            ("V(s₁)", "nats", "value_first"),
            ("cosine with imitation", "", "control_cosine"),
            ("loss of the last update", "", "loss_last"),
        ),
    ]


def scores_headlines(metrics: Metrics, _store: Store, _name: str, _generation: int) -> list[Headline]:
    """The accuracy of every benchmark; of few benchmarks also how many responses were cut, and how long they are."""
    names = [key.removesuffix(ACCURACY) for key in metrics if key.endswith(ACCURACY)]
    found = [_percent(f"accuracy {name}", _interval(metrics, f"{name}{ACCURACY}")) for name in names]
    for what, key in (("cut at the limit", "truncated_share"), ("without an answer", "unparsed_share")):
        if len(found) + len(names) <= _ENOUGH:
            shares = [name for name in names if f"{name}_{key}" in metrics]
            found += [_percent(f"{what} {name}", _interval(metrics, f"{name}_{key}")) for name in shares]
    return found


def headlines_list(headlines: Sequence[Headline]) -> str:
    """A Markdown list, a number each with its unit, name and 95% interval: it wraps where a table would be cut off."""
    lines: list[str] = []
    for one in headlines:
        ends = "" if one.low is None or one.high is None else f", {_shown(one.low)} to {_shown(one.high)}"
        number = f"{_shown(one.value)} {one.unit}".rstrip()
        lines.append(f"- **{number}** {one.name}{ends}")
    return "\n".join(lines)


def rounded(value: float, digits: int = _DIGITS) -> float:
    """The number with so many significant digits; whole numbers keep all of theirs."""
    if not math.isfinite(value) or value == 0:
        return value
    return round(value, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def _shown(value: float) -> str:
    number = rounded(value)
    return f"{number:,.0f}" if number == int(number) else f"{number:,}"


def _prompts(store: Store, name: str, generation: int) -> int:
    """Responses to one prompt are alike: prompts are what an interval counts."""
    return max(1, store.partition(name, "prompts", generation).manifest().rows)


def _interval(metrics: Metrics, name: str) -> Interval:
    value, low, high = (float(metrics.get(key, math.nan)) for key in (name, f"{name}_low", f"{name}_high"))
    return Interval(value, low, high)


def _percent(name: str, share: Interval) -> Headline:
    ends = [100 * end if math.isfinite(end) else None for end in (share.low, share.high)]
    return Headline(name, "%", 100 * share.value, *ends)


def _of(metrics: Metrics, *wanted: tuple[str, str, str]) -> list[Headline]:
    """(name, unit, metric) of those that the stage reports."""
    return [Headline(name, unit, float(metrics[key])) for name, unit, key in wanted if key in metrics]
