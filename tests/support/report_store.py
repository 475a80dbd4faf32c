"""The experiment of these tests, and what a model may write to break a page that shows it."""

import yaml

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
