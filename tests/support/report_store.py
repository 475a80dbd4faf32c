"""A store that the real stages filled: policy[0] sampled, labelled, trained and evaluated; policy[1] evaluated.

And what a model may write to break a page that shows it.
"""

from pathlib import Path

import pytest
import yaml

from evals.run.responses import Sampler
from evals.run.stage import run_evaluate
from pipeline.config import build_experiment
from pipeline.policies.refs import publish_policy, write_policy_json
from pipeline.policies.tiny import save_tiny_arith
from pipeline.reference import run_ref_logprobs
from pipeline.rewards.stage import run_rewards
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store, open_store
from trainer.stages.train import run_train

TREE = yaml.safe_load("""
name: exp
description: "Sums below 40 <b>not bold</b>."
seed: 3
generations: 2
policy: {base: "builtin:tiny-arith", dtype: float32}
prompts: {source: arithmetic, arithmetic: {low: 10, high: 19, heldout: 16}, template: raw, per_generation: 8}
rollouts: {engine: transformers, n: 2, max_tokens: 5, prompts_per_shard: 4}
rewards: {verifier: exact_integer, workers: 1}
training: {objective: tbrm, beta: 0.1, prompt_batch: 4, updates_per_generation: 2}
evaluation: {benchmarks: [heldout, heldout_sampled], responses_per_shard: 32}
""")

SCRIPT = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
HOSTILE = (
    f"Let's verify {SCRIPT}</pre></td></table></main></textarea></title></style>{{{{ 7*7 }}}}"
    "\x1b[31mred\x00\u202ereversed &lt;b&gt; " + "w" * 3000
)


def make_store(root: Path) -> Store:
    """Generation 0 is whole; policy[1] has scores, and answers to benchmarks and prompts that attack the page."""
    experiment, store = build_experiment(TREE, "test"), open_store(str(root))
    base = Path(store.base) / "exp" / "base"
    base.mkdir(parents=True)
    save_tiny_arith(base, seed=0)
    write_policy_json(base, {})
    publish_policy(store, "exp", 0, base, {})
    run_evaluate(experiment, store, 0)
    run_rollouts(experiment, store, 0)
    run_rewards(experiment, store, 0)
    run_ref_logprobs(experiment, store, 0)
    run_train(experiment, store, 0)
    with pytest.MonkeyPatch.context() as patched:
        sample = Sampler.sample

        def attacking(self: Sampler, entry, problems):  # type: ignore[no-untyped-def]
            rows = sample(self, entry, problems)
            place = rows.schema.get_field_index("response_text")
            return rows.set_column(place, "response_text", [[HOSTILE] * len(rows)])

        patched.setattr(Sampler, "sample", attacking)
        run_evaluate(experiment, store, 1)
    _attacking_rollouts(store)
    return store


def _attacking_rollouts(store: Store) -> None:
    """Rollouts of generation 1: those of generation 0 with another text."""
    rows = store.partition("exp", "rollouts", 0).read_shard(0)
    place = rows.schema.get_field_index("response_text")
    with store.partition("exp", "rollouts", 1).writer("attack", {}) as writer:
        writer.write(0, rows.set_column(place, "response_text", [[HOSTILE] * len(rows)]))
        writer.commit(1)
