"""One update step: seconds and peak memory, beside the loss step of TRL's GRPOTrainer, and how they grow.

    PYTHONPATH=.:/tmp/trl OMP_NUM_THREADS=1 python benchmarks/train_step.py       # writes results/train_step.json

Model, batch, lengths and stored log-probs are the same on both sides: a random Llama, 8 trajectories of 2 prompts,
responses of 32 to 1,024 tokens with a long tail. Every measurement is a process of its own; memory is its largest
resident set. Seconds are processor seconds of one thread, which other load on the machine changes little; wall seconds
stand beside them. `pip install --no-deps --target /tmp/trl trl==1.16.0` provides TRL; without it only our side runs.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.scoring.batch import GroupStats, Trajectory
from trainer.data.trajectories import group_stats

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "train_step.json"
PROMPT_TOKENS, ROLLOUTS, BETA = 32, 4, 0.002
VOCABULARY = 151_936
Step = Callable[[list[Trajectory]], float]
"""From the trajectories of one update to its loss."""


@dataclass(frozen=True)
class Case:
    """One measurement."""

    side: str
    """`tbrm`, `grpo` (ours) or `trl` (GRPOTrainer)."""
    vocabulary: int = VOCABULARY
    trajectories: int = 8
    length: int | None = None
    """Response tokens of every trajectory; None: long-tailed, 32 to 1,024."""
    micro: int = 2_048
    """Tokens of one of our packs; trajectories of one of TRL's micro-batches (8 is its default)."""
    head_chunk: int = 256
    zero_stage: int = 0
    hidden: int = 128


def lengths_of(case: Case) -> list[int]:
    """Response lengths; the longest of the long-tailed ones is 1,024."""
    if case.length is not None:
        return [case.length] * case.trajectories
    drawn = np.random.default_rng(0).lognormal(np.log(128), 1.0, case.trajectories)
    return [*(int(x) for x in np.clip(drawn[:-1], 32, 1_024)), 1_024]


def batch_of(case: Case) -> list[Trajectory]:
    """Random trajectories with log-probs near those of a random model, -log(vocabulary)."""
    rng = np.random.default_rng(1)
    lengths = lengths_of(case)
    rewards = rng.integers(0, 2, len(lengths)).astype(float)
    means, stds, sizes, soft = group_stats(rewards, np.arange(0, len(lengths) + 1, ROLLOUTS), BETA)
    made: list[Trajectory] = []
    for i, size in enumerate(lengths):
        group, level = i // ROLLOUTS, -np.log(case.vocabulary)
        made.append(
            Trajectory(
                trajectory_id=f"t{i}",
                prompt_id=f"p{group}",
                prompt_ids=rng.integers(3, 100, PROMPT_TOKENS).astype(np.int32),
                response_ids=rng.integers(3, case.vocabulary, size).astype(np.int32),
                response_mask=np.ones(size, dtype=bool),
                reward=float(rewards[i]),
                ref_logprobs=(level + 0.05 * rng.standard_normal(size)).astype(np.float32),
                behavior_logprobs=(level + 0.05 * rng.standard_normal(size)).astype(np.float32),
                group=GroupStats(float(means[group]), float(stds[group]), int(sizes[group]), float(soft[group])),
            )
        )
    return made


def save_model(case: Case, folder: Path) -> None:
    """A random Llama of four layers, head tied to the embedding, with the built-in tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipeline.policies.tiny import save_tiny_arith

    save_tiny_arith(folder, 0)
    torch.manual_seed(0)
    shape = {"hidden_size": case.hidden, "intermediate_size": 3 * case.hidden, "num_hidden_layers": 4}
    config = LlamaConfig(
        **shape,
        vocab_size=case.vocabulary,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8_192,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def our_step(case: Case, folder: Path) -> Step:
    """The step that `tbrm train` takes, DeepSpeed included; returns its loss."""
    from pipeline.config.policy import PolicyConfig
    from pipeline.config.training import TrainingConfig
    from trainer.engine.deepspeed import join_world
    from trainer.engine.models import build_models
    from trainer.job import TrainJob
    from trainer.loop.metrics import Clock
    from trainer.loop.scores import Batch
    from trainer.loop.update import update_once

    training = TrainingConfig.model_validate(
        {
            "objective": case.side,
            "beta": BETA,
            "zero_stage": case.zero_stage,
            "micro_batch_tokens": case.micro,
            "head_chunk_tokens": case.head_chunk,
        }
    )
    model = PolicyConfig(base=str(folder), dtype="float32")
    job = TrainJob("benchmark", folder, folder, model, training, 10, 0, "")
    world = join_world()
    models = build_models(job, world, resume=None)
    clock = Clock()
    return lambda rows: float(update_once(job, models, world, Batch(rows, None), clock, 0, 0)["loss"])


def trl_step(case: Case, folder: Path) -> Step:
    """`GRPOTrainer.compute_loss` and backward over the same trajectories, then clipping and AdamW."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from pipeline.config.policy import PolicyConfig
    from pipeline.policies.load_save import load_model, load_tokenizer

    accumulation = case.trajectories // case.micro
    options = GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=case.micro,
        gradient_accumulation_steps=accumulation,
        num_generations=ROLLOUTS,
        generation_batch_size=case.trajectories,
        max_completion_length=1_024,
        loss_type="grpo",
        epsilon=0.2,
        beta=0.0,  # set below: the reference's log-probs are stored, no second model is wanted
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
    )
    trainer = GRPOTrainer(
        model=load_model(str(folder), PolicyConfig(base=str(folder), dtype="float32")),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=options,
        train_dataset=Dataset.from_dict({"prompt": ["1+1="] * ROLLOUTS}),
        processing_class=load_tokenizer(str(folder)),
    )
    trainer.beta = 0.001
    trainer.current_gradient_accumulation_steps = accumulation
    model = trainer.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2.5e-6, weight_decay=0.01)

    def step(rows: list[Trajectory]) -> float:
        total = 0.0
        for at in range(0, len(rows), case.micro):
            loss = trainer.compute_loss(model, padded(rows[at : at + case.micro]))
            loss.backward()
            total += float(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def padded(rows: list[Trajectory]) -> dict[str, Any]:
    """A micro-batch as GRPOTrainer makes it: every response padded to the longest of the micro-batch."""

    def rectangle(parts: list[Any], dtype: torch.dtype) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([torch.as_tensor(np.array(p), dtype=dtype) for p in parts], True)

    advantages = [(t.reward - t.group.mean) / (t.group.std + 1e-6) if t.group else 0.0 for t in rows]
    return {
        "prompt_ids": rectangle([t.prompt_ids for t in rows], torch.int64),
        "prompt_mask": rectangle([np.ones_like(t.prompt_ids) for t in rows], torch.int64),
        "completion_ids": rectangle([t.response_ids for t in rows], torch.int64),
        "completion_mask": rectangle([t.response_mask for t in rows], torch.int64),
        "old_per_token_logps": rectangle([t.behavior_logprobs for t in rows], torch.float32),
        "ref_per_token_logps": rectangle([t.ref_logprobs for t in rows], torch.float32),
        "advantages": torch.tensor(advantages, dtype=torch.float32),
        "num_items_in_batch": torch.tensor(sum(len(t.response_ids) for t in rows)),
    }


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """In a process of its own: one warm-up step on few tokens, then the step."""
    step = (trl_step if case.side == "trl" else our_step)(case, folder)
    rows = batch_of(case)
    step(batch_of(replace(case, length=4))[:ROLLOUTS])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    wall, cpu = time.perf_counter(), time.process_time()
    loss = step(rows)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    tokens = sum(lengths_of(case)) + PROMPT_TOKENS * case.trajectories
    return {
        "tokens": tokens,
        "loss": loss,
        "cpu_s": round(cpu, 3),
        "wall_s": round(wall, 3),
        "tokens_per_cpu_s": round(tokens / cpu, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
        "rss_before_step_mb": round(before),
    }


def in_child(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--folder", folder]
        subprocess.run([*command, "--save"], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    result = asdict(case) | json.loads(done.stdout.splitlines()[-1])
    sys.stderr.write(f"{result}\n")
    return result


def comparison() -> list[dict[str, Any]]:
    ours = [Case("grpo"), Case("tbrm"), Case("tbrm", head_chunk=1_024), Case("tbrm", zero_stage=1)]
    theirs = [Case("trl", micro=micro) for micro in (8, 1)] if importlib.util.find_spec("trl") else []
    small = [replace(case, vocabulary=8_192, hidden=256) for case in (Case("grpo"), Case("trl", micro=8))]
    return [in_child(case) for case in (*ours, *theirs, *small[: len(theirs) or 1])]


def growth() -> dict[str, list[dict[str, Any]]]:
    base = Case("tbrm", vocabulary=8_192, trajectories=8, length=128)
    return {
        "length": [in_child(replace(base, length=n, micro=max(2_048, n + 32))) for n in (128, 256, 512, 1_024, 2_048)],
        "vocabulary": [in_child(replace(base, vocabulary=n)) for n in (8_192, 32_768, 65_536, VOCABULARY)],
        "trajectories": [in_child(replace(base, trajectories=n)) for n in (8, 16, 32, 64)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=json.loads)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--only", choices=("comparison", "growth"))
    options = parser.parse_args()
    if options.case:
        case = Case(**options.case)
        save_model(case, options.folder) if options.save else sys.stdout.write(
            json.dumps(measure(case, options.folder)) + "\n"
        )
        return
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result |= {"torch": torch.__version__, "threads": 1, "load_average": os.getloadavg()[0]}
    if options.only != "growth":
        result["comparison"] = comparison()
    if options.only != "comparison":
        result["growth"] = growth()
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
