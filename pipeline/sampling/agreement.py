"""Do the sampling engine and the trainer give a token the same probability?

TBRM never uses the behaviour log-probs. But engine and trainer are two implementations of one policy; where they
differ, the policy that is trained is not quite the one that acted, and its residual sums the difference over a
response.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import Experiment
from pipeline.policies.load_save import device, load_model
from pipeline.policies.refs import PolicyRef
from pipeline.store import PartitionWriter

_COLUMNS = ("prompt_token_ids", "response_token_ids", "behavior_logprobs")


def measure_agreement(
    experiment: Experiment, policy: PolicyRef, writer: PartitionWriter, shards: int, sample: int
) -> dict[str, float | int]:
    """Gaps |log π_engine - log π_trainer| in nats over `sample` trajectories, taken evenly from all shards.

    `agreement_mean_gap` and `agreement_max_gap` are of single tokens; `agreement_response_gap` and
    `agreement_max_response_gap` of |Σ_h (…)| over a response: mean and largest. Raises TbrmError for a model that the
    trainer cannot score.
    """
    from pipeline.scoring.scoring import score_trajectories

    rows = _sample(writer, shards, sample).to_pydict()
    model: Any = load_model(policy.path, experiment.policy).to(device())
    scored = score_trajectories(
        model, rows["prompt_token_ids"], rows["response_token_ids"], experiment.reference.max_tokens
    )
    differences = [
        np.asarray(told, np.float64) - logprobs
        for told, (logprobs, _) in zip(rows["behavior_logprobs"], scored, strict=True)
    ]
    tokens = np.abs(np.concatenate(differences))
    responses = np.array([abs(float(difference.sum())) for difference in differences])
    return {
        "agreement_mean_gap": float(tokens.mean()),
        "agreement_max_gap": float(tokens.max()),
        "agreement_response_gap": float(responses.mean()),
        "agreement_max_response_gap": float(responses.max()),
        "agreement_trajectories": len(differences),
    }


def _sample(writer: PartitionWriter, shards: int, sample: int) -> pa.Table:
    """Rows spread evenly over every shard, those without tokens left out."""
    each = -(-sample // shards)
    parts: list[pa.Table] = []
    for index in range(shards):
        rows = writer.read(index, _COLUMNS)
        rows = rows.filter(pa.array([bool(ids) for ids in rows["response_token_ids"].to_pylist()]))
        parts.append(
            rows.take(np.unique(np.linspace(0, rows.num_rows - 1, each).astype(int))) if rows.num_rows else rows
        )
    return pa.concat_tables(parts)[:sample]
