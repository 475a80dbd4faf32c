"""log π_θ and V_θ of the tokens a policy wrote, from hidden states, without ever holding [tokens, vocabulary].

The same code scores θ in training and the reference in the data plane, so that every log-ratio is 0 at θ = θ_ref.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import TbrmError
from pipeline.scoring.backbone import hidden_states
from pipeline.scoring.batch import PackedBatch, Scores, Trajectory, ValueAt
from pipeline.scoring.head import head_scores
from pipeline.scoring.packing import pack
from pipeline.scoring.ulysses import Share, gather


def score(
    model: Any,
    batch: PackedBatch,
    value: ValueAt = "none",
    entropy: bool = False,
    temperature: float = 1.0,
    chunk_tokens: int = 1_024,
    share: Share | None = None,
) -> Scores:
    """Score a pack under a causal language model of transformers (its backbone and its head, on the batch's device).

    The head sees only the positions that predict policy tokens, `chunk_tokens` of them at a time. `temperature` divides
    the logits before log π, V and the entropy. V costs nothing beside log π; `value` says which of it is returned.
    With `share` the pack is spread over processes, each of which calls this and gets the whole result.
    Raises TbrmError for a model whose logits are not a plain linear map of its last hidden state.
    """
    head = plain_head(model)
    hidden, predict, targets = hidden_states(model.get_decoder(), batch, share), batch.predict, batch.targets
    own: torch.Tensor | None = None
    if share is not None:
        start, stop = share.slice_of(batch.input_ids.shape[1])
        own = torch.nonzero((predict >= start) & (predict < stop)).squeeze(1)
        predict, targets = predict[own] - start, targets[own]
    selected = hidden.index_select(0, predict)
    logprob, soft_value, spread = head_scores(
        selected, head.weight, head.bias, targets, temperature, chunk_tokens, entropy
    )
    if share is not None and own is not None:
        total = len(batch.predict)
        logprob, soft_value, spread = (gather(part, own, total, share) for part in (logprob, soft_value, spread))
    return Scores(
        logprob=logprob,
        value_first=soft_value.index_select(0, batch.first) if value != "none" else None,
        value=soft_value if value == "all" else None,
        entropy=spread if entropy else None,
    )


def score_trajectories(
    model: Any,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    token_budget: int,
    masks: Sequence[npt.NDArray[np.bool_]] | None = None,
    temperature: float = 1.0,
    chunk_tokens: int = 1_024,
) -> list[tuple[npt.NDArray[np.float32], float]]:
    """For each response of T tokens: log-probs [T], and V(s_1), at the first policy token. No gradient, no dropout.

    `masks` mark the tokens that the policy wrote (None: all); the others get 0. Without any such token V is taken right
    after the prompt. A reference for training at another `temperature` has to be scored at that temperature. Results do
    not depend on `token_budget` beyond rounding (1e-4 summed over a response in fp32).
    """
    masks = masks if masks is not None else [np.ones(len(r), dtype=np.bool_) for r in responses]
    rows = [_unlabelled(str(i), *row) for i, row in enumerate(zip(prompts, responses, masks, strict=True))]
    place = {id(row): i for i, row in enumerate(rows)}
    results: list[tuple[npt.NDArray[np.float32], float]] = [(np.zeros(len(r), np.float32), 0.0) for r in responses]
    training = model.training
    model.eval()
    with torch.no_grad():
        for batch in pack(rows, token_budget):
            scores = score(model, batch.to(model.device), "first", False, temperature, chunk_tokens)
            logprobs = scores.logprob.float().cpu().numpy()
            values = cast(torch.Tensor, scores.value_first).tolist()
            parts = np.split(logprobs, np.cumsum(batch.lengths)[:-1])
            for row, part, value in zip(batch.trajectories, parts, values, strict=True):
                at = place[id(row)]
                tokens = results[at][0]
                tokens[masks[at]] = part[: int(masks[at].sum())]
                results[at] = (tokens, value)
    model.train(training)
    return results


def plain_head(model: Any) -> torch.nn.Linear:
    """The linear map from hidden states to logits. Raises TbrmError for a model that does more than that."""
    head = model.get_output_embeddings()
    extras = {
        name: factor
        for name, neutral in (("final_logit_softcapping", None), ("logits_scaling", 1), ("logit_scale", 1))
        if (factor := getattr(model.config, name, neutral)) not in (None, neutral)
    }
    if extras or not isinstance(head, torch.nn.Linear):
        raise TbrmError(
            f"{type(model).__name__} cannot be scored: its logits are not a plain linear map of the last hidden state "
            f"(head {type(head).__name__}, {extras or 'no scaling'}). Choose one with a linear head (Qwen2, Llama)"
        )
    return head


def _unlabelled(name: str, prompt: Sequence[int], response: Sequence[int], mask: npt.NDArray[np.bool_]) -> Trajectory:
    """A row to score; one without policy tokens gets an arbitrary first token, so that it has a V(s_1)."""
    tokens = np.asarray(response if mask.any() else [0], dtype=np.int32)
    return Trajectory(
        trajectory_id=name,
        prompt_id=name,
        prompt_ids=np.asarray(prompt, dtype=np.int32),
        response_ids=tokens,
        response_mask=mask if mask.any() else np.ones(1, dtype=np.bool_),
        reward=0.0,
        ref_logprobs=np.zeros(len(tokens), dtype=np.float32),
    )
