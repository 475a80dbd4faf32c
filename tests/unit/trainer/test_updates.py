"""A job's updates against a plain loop of PyTorch over the same trajectories: weights, losses, and what is reported."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from assets.experiment.meanings import metric_meaning
from pipeline.config.training import OBJECTIVE_NEEDS, TrainingConfig
from pipeline.errors import TbrmError
from pipeline.policies.load_save import load_model
from pipeline.run.tracking import Tracked
from pipeline.scoring.batch import Trajectory, lay_out, pair_units, unit_pairs
from pipeline.scoring.scoring import score
from tests.unit.trainer.jobs import BETA, MODEL, SEED, job_of, mix, policy_folder
from trainer.data.trajectories import TrajectoryTable, batch_rows
from trainer.engine.models import CriticModule
from trainer.job import TrainJob
from trainer.loop.metrics import SEGMENTS, summary
from trainer.loop.worker import train_policy
from trainer.objectives import get

MakeJob = Callable[..., TrainJob]
UPDATES = 3


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_folder(tmp_path_factory.mktemp("policies") / "zero")


@pytest.fixture(scope="module")
def table(policy: Path) -> pa.Table:
    return mix(policy, reference=policy_folder(policy.with_name("one"), seed=1))


@pytest.fixture
def make_job(policy: Path, table: pa.Table, tmp_path: Path) -> MakeJob:
    return lambda name="job", **options: job_of(table, policy, tmp_path / name, **options)


@dataclasses.dataclass
class Plain:
    """What a plain loop made of a job: the weights, and for each update its loss, gradient norm and trajectories."""

    weights: dict[str, torch.Tensor]
    losses: list[float]
    norms: list[float]
    batches: list[Sequence[Trajectory]]
    columns: list[dict[str, Any]]


def rates(config: TrainingConfig, updates: int) -> list[float]:
    """The learning rates of a job's updates, spelled out."""
    rising = [min(1.0, (k + 1) / config.warmup_updates) if config.warmup_updates else 1.0 for k in range(updates)]
    falling = [(updates - k) / updates if config.learning_rate_decay == "linear" else 1.0 for k in range(updates)]
    return [config.learning_rate * min(a, b) for a, b in zip(rising, falling, strict=True)]


def plain_loop(job: TrainJob) -> Plain:
    """The job without packs, processes and DeepSpeed: all of a batch in one row, torch's AdamW, torch's clipping."""
    config, needs = job.training, OBJECTIVE_NEEDS[job.training.objective]
    model = load_model(str(job.start), MODEL)
    frozen = load_model(str(job.start), MODEL)
    critic = CriticModule(load_model(str(job.start), MODEL), config) if needs.critic else None

    def optimizer(module: torch.nn.Module) -> torch.optim.AdamW:
        options = {"betas": config.adam_betas, "eps": config.adam_eps, "weight_decay": config.weight_decay}
        return torch.optim.AdamW(module.parameters(), lr=0.0, **options)

    steps = [(model, optimizer(model), config.learning_rate)]
    if critic is not None:
        steps.append((critic, optimizer(critic), config.critic_learning_rate))
    rows = TrajectoryTable(job.state, config.beta)
    groups = [np.array([row]) for row in rows.rows] if config.objective == "imitation" else rows.groups
    done = Plain({}, [], [], [], [])
    for update, rate in enumerate(rates(config, job.updates)):
        batch = rows.read(batch_rows(groups, job.seed, update, config.prompt_batch, needs.pairs))
        pairs = [pair for unit in pair_units(batch) for pair in unit_pairs(unit)] if needs.pairs else []
        packed = lay_out(batch, pairs)
        scores = score(model, packed, needs.value, needs.entropy)
        with torch.no_grad():
            start = score(frozen, packed, "all")
        scores = dataclasses.replace(
            scores,
            target_value=start.value,
            old_logprob=start.logprob,
            critic_value=None if critic is None else critic(packed),
        )
        loss, info = get(config.objective).loss(scores, packed, config)
        terms = {"pairs": len(pairs), "tokens": len(packed.targets)}.get(needs.mean_over, len(batch))
        (loss / terms).backward()
        for module, steps_of, peak in steps:
            norm = torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
            if module is model:
                done.norms.append(float(norm))
            if config.grad_clip and norm > config.grad_clip:
                for parameter in module.parameters():
                    parameter.grad = None if parameter.grad is None else parameter.grad * (config.grad_clip / norm)
            steps_of.param_groups[0]["lr"] = rate / config.learning_rate * peak
            steps_of.step()
            steps_of.zero_grad()
        done.losses.append(float(loss.detach()) / terms)
        done.batches.append(batch)
        ratio = (scores.logprob.detach() - packed.ref_logprobs).double()
        done.columns.append(
            {"logratio": packed.per_trajectory(ratio).numpy()} | {name: column.numpy() for name, column in info.items()}
        )
    done.weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return done


def exported(job: TrainJob) -> dict[str, torch.Tensor]:
    return load_file(job.out / "model.safetensors")


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("tbrm", {"adam_betas": (0.8, 0.9), "warmup_updates": 4, "learning_rate_decay": "linear"}),
        ("tbrm", {"grad_clip": 0.0, "value_offset": "reference", "residual_clip": 1.0, "zero_stage": 0}),
        ("tbrm_iterative", {"grad_clip": 0.05}),
        ("brm", {}),
        ("sac_multi", {"critic_learning_rate": 3e-3}),
        ("daa_pair", {"micro_batch_tokens": 60}),
        ("grpo", {"kl_coefficient": 0.1}),
        ("ppo", {"critic_learning_rate": 3e-3, "warmup_updates": 2, "entropy_coefficient": 0.1, "zero_stage": 2}),
        ("imitation", {"prompt_batch": 7}),
        ("filtered_imitation", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_packs_and_deepspeed_change_nothing(make_job: MakeJob, objective: str, options: dict[str, Any]) -> None:
    job = make_job(updates=UPDATES, objective=objective, **options)
    plain, rows = plain_loop(job), train_policy(job).metrics
    assert [row["update"] for row in rows] == [1, 2, 3]
    assert [name for name in rows[0] if metric_meaning(name) is None] == [], "the reference has a line for each"
    assert [row["loss"] for row in rows] == pytest.approx(plain.losses, rel=1e-4)
    assert [row["grad_norm"] for row in rows] == pytest.approx(plain.norms, rel=1e-3)
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates(job.training, UPDATES), rel=1e-9)
    found, start = exported(job), load_model(str(job.start), MODEL).state_dict()
    assert found.keys() == plain.weights.keys()
    moved = max(float((plain.weights[name] - start[name]).abs().max()) for name in found)
    for name, tensor in found.items():
        assert float((tensor - plain.weights[name]).abs().max()) < 0.02 * moved, name


def test_a_row_of_metrics_describes_its_batch(make_job: MakeJob) -> None:
    job = make_job(updates=2, prompt_batch=5)
    plain, result = plain_loop(job), train_policy(job)
    for row, batch, columns in zip(result.metrics, plain.batches, plain.columns, strict=True):
        rewards = np.array([t.reward for t in batch])
        lengths = np.array([len(t.response_ids) for t in batch])
        residual = columns["residual"]
        assert row["trajectories"] == len(batch) == 15
        assert row["tokens"] == lengths.sum() + sum(len(t.prompt_ids) for t in batch)
        assert row["reward"] == pytest.approx(rewards.mean())
        assert row["response_tokens"] == pytest.approx(lengths.mean())
        assert row["truncated"] == pytest.approx(np.mean([t.truncated for t in batch]))
        for name in ("logratio", "value_first"):
            assert row[name] == pytest.approx(columns[name].mean(), rel=1e-4), name
        assert row["residual_mean"] == pytest.approx(residual.mean(), rel=1e-4)
        assert row["residual_abs"] == pytest.approx(np.abs(residual).mean(), rel=1e-4)
        assert row["residual_std"] == pytest.approx(residual.std(), rel=1e-4)
        percentiles = [row[f"residual_p{p}"] for p in (5, 50, 95)]
        assert percentiles == pytest.approx(np.percentile(residual, [5, 50, 95]).tolist(), rel=1e-4)
        for split, key in (("by_source", lambda t: t.source), ("by_lag", lambda t: str(t.lag))):
            assert list(row[split]) == sorted({key(t) for t in batch})
            for name, figures in row[split].items():
                mine = np.array([key(t) == name for t in batch])
                assert figures["trajectories"] == mine.sum()
                assert figures["reward"] == pytest.approx(rewards[mine].mean())
                assert figures["residual_mean"] == pytest.approx(residual[mine].mean(), rel=1e-4)
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert row["peak_memory_gb"] > 0
        assert "mfu" not in row
    assert set(result.seconds) == set(SEGMENTS)
    updates = sum(row["seconds"] for row in result.metrics)
    assert sum(result.seconds.values()) - result.seconds["diagnostics"] == pytest.approx(updates)
    assert result.seconds["old_prob"] == 0
    assert min(result.seconds["update_policy"], result.seconds["diagnostics"]) > 0
    assert result.seconds["ppo_value"] == result.seconds["ppo_update_value"] == 0


def test_a_critics_time_is_its_own(make_job: MakeJob) -> None:
    result = train_policy(make_job(updates=1, objective="ppo"))
    assert result.seconds["old_prob"] > 0
    assert min(result.seconds["ppo_value"], result.seconds["ppo_update_value"]) > 0


def test_a_stages_figures_are_means_and_sums_of_its_updates(make_job: MakeJob) -> None:
    result = train_policy(make_job(updates=3, prompt_batch=5))
    figures = summary(result.metrics, {"rollout": 2.5, "other": 1.0})
    assert figures["updates"] == 3
    assert figures["tokens"] == sum(row["tokens"] for row in result.metrics)
    assert (figures["loss_first"], figures["loss_last"]) == (result.metrics[0]["loss"], result.metrics[2]["loss"])
    for name in ("loss", "logratio", "reward", "grad_norm", "seconds", "tokens_per_second"):
        assert figures[name] == pytest.approx(np.mean([row[name] for row in result.metrics])), name
    assert (figures["seconds_rollout"], figures["seconds_other"]) == (2.5, 1.0)
    assert not {"by_source", "by_lag", "update"} & set(figures)
    assert summary([], {}) == {}


@pytest.mark.parametrize(("limit", "stops"), [(1.01, False), (0.99, True)])
def test_the_guard_is_at_the_mean_absolute_residual(make_job: MakeJob, limit: float, stops: bool) -> None:
    job = make_job("asked", updates=1)
    plain = plain_loop(job)
    residual = np.abs(plain.columns[0]["residual"])
    guarded = make_job(updates=1, max_residual=limit * float(residual.mean()))
    if not stops:
        assert len(train_policy(guarded).metrics) == 1
        return
    with pytest.raises(TbrmError, match="diverged at update 1") as caught:
        train_policy(guarded)
    text = str(caught.value)
    named = text.partition("Worst trajectories: ")[2].partition(". The")[0].split(", t")
    worst = [plain.batches[0][i] for i in np.argsort(-residual)[:5]]
    expected = [f"{t.trajectory_id} ({t.source}, reward {t.reward:g})".removeprefix("t") for t in worst]
    assert [name.removeprefix("t") for name in named] == expected
    assert f"mean |residual| {residual.mean():.4g}" in text
    assert not guarded.out.exists()


def test_the_same_job_gives_the_same_bytes_and_another_seed_another_order(make_job: MakeJob) -> None:
    one, again = make_job("one"), make_job("again")
    rows = [train_policy(job).metrics for job in (one, again)]
    assert [r["loss"] for r in rows[0]] == [r["loss"] for r in rows[1]]
    assert (one.out / "model.safetensors").read_bytes() == (again.out / "model.safetensors").read_bytes()
    other = dataclasses.replace(make_job("other"), seed=SEED + 1)
    assert train_policy(other).metrics[0]["loss"] != rows[0][0]["loss"]


def test_the_tracker_gets_every_plain_number_of_every_update(make_job: MakeJob, tmp_path: Path) -> None:
    given = Tracked("tensorboard", "exp", "exp-0", str(tmp_path / "tracked"))
    rows = train_policy(dataclasses.replace(make_job(updates=2), tracked=given, updates_before=6)).metrics
    with given.open("rewards", "generation") as log:  # another stage, in a process of its own: the same run
        log({"reward_mean": 0.5, "verifier": "plain", "odd": float("nan")}, 3)
    found = EventAccumulator(str(tmp_path / "tracked" / "exp")).Reload()
    numbers = {name for name, value in rows[0].items() if isinstance(value, float | int)} - {"update"}
    assert set(found.Tags()["scalars"]) == {f"update/{name}" for name in numbers} | {"rewards/reward_mean"}
    for name in ("loss", "reward", "grad_norm"):
        events = found.Scalars(f"update/{name}")
        assert [event.step for event in events] == [7, 8]
        assert [event.value for event in events] == pytest.approx([row[name] for row in rows])
    assert [(event.step, event.value) for event in found.Scalars("rewards/reward_mean")] == [(3, 0.5)]


def test_the_residual_of_the_metrics_is_that_of_eq_4(make_job: MakeJob) -> None:
    job = make_job(updates=1, prompt_batch=6)
    row, table = train_policy(job).metrics[0], TrajectoryTable(job.state, BETA)
    model, residuals = load_model(str(job.start), MODEL), []
    for t in table.read(range(len(table))):
        ids = torch.from_numpy(np.concatenate([t.prompt_ids, t.response_ids])).long()[None]
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(t.prompt_ids) - 1 : -1].double()
        logprobs = logits.log_softmax(1).gather(1, torch.from_numpy(t.response_ids).long()[:, None])[:, 0].numpy()
        ratio = (logprobs - t.ref_logprobs)[t.response_mask].sum()
        residuals.append(float(logits[0].logsumexp(0)) + ratio - t.reward / BETA)
    assert row["residual_mean"] == pytest.approx(np.mean(residuals), rel=1e-4)
    assert row["loss"] == pytest.approx(np.mean(np.square(residuals)), rel=1e-4)


def test_the_diagnostics_are_of_the_policy_before_the_first_update(make_job: MakeJob) -> None:
    job = make_job(updates=2, prompt_batch=6, diagnostics_sample=100)
    first = train_policy(job).metrics[0]
    tree = json.loads((job.state / "diagnostics.json").read_text())
    assert (tree["config_hash"], tree["sample_per_source"]) == ("hash", 100)
    for source in tree["sources"]:
        assert source["residual"]["mean"] == pytest.approx(
            first["by_source"][source["source"]]["residual_mean"], rel=1e-4
        )
        assert (source["rows"], source["sampled"]) == (9, 9)


def test_a_critic_of_soft_values_reaches_the_reward_over_beta(make_job: MakeJob) -> None:
    """Hundreds of nats, within a few updates: its output is of the size of a reward, and divided by β."""
    settings = {"objective": "sac_multi", "beta": 0.002, "critic_learning_rate": 5e-4, "learning_rate": 1e-9}
    job = make_job(updates=16, prompt_batch=6, micro_batch_tokens=4_096, control_every=0, **settings)
    rows = train_policy(job).metrics
    assert rows[0]["value_first"] == 0
    assert np.mean([row["value_first"] for row in rows[-6:]]) == pytest.approx(rows[0]["reward"] / 0.002, rel=0.3)
