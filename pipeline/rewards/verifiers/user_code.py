"""Your own verifier: a function named in the experiment's YAML, run in the same workers under the same limits."""

import functools
import hashlib
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.rewards.types import Extra, RewardLabel, Verifier, verdict


@functools.cache
def _function(dotted: str) -> Any:
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)


def grade_with(dotted: str, response: str, answer: str, extra: Extra) -> RewardLabel:
    """Call `function(response, answer, extra)`. It returns a bool, a number in [0, 1], a RewardLabel, or a mapping with
    `reward` and optionally `status`, `extracted_answer`, `detail`, `format`, `token_rewards`."""
    result = _function(dotted)(response, answer, extra)
    if isinstance(result, RewardLabel):
        return result
    if isinstance(result, bool):
        return verdict(result, None)
    if isinstance(result, int | float):
        return RewardLabel(float(result), "ok", None, None, {"correctness": float(result), "format": 1.0})
    if isinstance(result, Mapping):
        return _from_mapping(result)
    kind = type(result).__name__
    return RewardLabel(0.0, "error", None, f"{dotted} returned {kind}, not a bool, number, mapping or RewardLabel")


def _from_mapping(result: Mapping[str, Any]) -> RewardLabel:
    reward, status = float(result["reward"]), result.get("status", "ok")
    if status not in ("ok", "wrong_format", "timeout", "memory", "error"):
        return RewardLabel(0.0, "error", None, f"the verifier returned the unknown status {status!r:.100}")
    tokens = result.get("token_rewards")
    return RewardLabel(
        reward,
        status,
        result.get("extracted_answer"),
        result.get("detail"),
        {"correctness": reward, "format": float(result.get("format", status == "ok"))},
        tuple(float(value) for value in tokens) if tokens is not None else None,
    )


def user_verifier(dotted: str) -> Verifier:
    """The verifier named `package.module:function`; its version is a hash of the module's source.

    Raises ConfigError when there is no such module. The function itself is first looked up in a worker.
    """
    module = dotted.partition(":")[0]
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise ConfigError(
            f"rewards.verifier {dotted!r}: there is no module {module!r}; install it or put its folder on PYTHONPATH"
        )
    version = hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()[:12]
    grade, prepare = functools.partial(grade_with, dotted), functools.partial(_function, dotted)
    return Verifier(dotted, version, grade, prepare=prepare, runs_code=True)
