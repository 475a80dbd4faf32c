"""Whether a study that was run again says what it said before: on another machine sums are rounded differently."""

import math
from typing import Any

from assets.studies.statistics import last_rewards, over_seeds


def agreement(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line in all, then one an arm whose last policy earns something else than before.

    Two means over seeds agree when their difference is not larger than the 95% half-width √(w² + w'²) of that
    difference; by chance alone one arm in twenty does not. Arms that only one of the two has are not compared.
    """
    old = {arm["arm"]: over_seeds(last_rewards(arm)) for arm in before["arms"]}
    new = {arm["arm"]: over_seeds(last_rewards(arm)) for arm in now["arms"] if arm["arm"] in old}
    apart = [name for name in new if not _agree(old[name], new[name])]
    if not new:
        return []
    told = [f"{len(new) - len(apart)} of {len(new)} arms earn what they earned before, within 95% intervals over seeds"]
    means = ((name, old[name]["mean"], new[name]["mean"]) for name in apart)
    return told + [f"  {name}: {was:.3f} before, {is_now:.3f} now" for name, was, is_now in means]


def _agree(old: dict[str, float], new: dict[str, float]) -> bool:
    width = math.hypot(old["high"] - old["mean"], new["high"] - new["mean"])
    return not abs(new["mean"] - old["mean"]) > width  # one seed has no interval: nothing to say against it
