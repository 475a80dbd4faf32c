"""What every metric, and every column that a command prints, means; docs/reference.md is made of it."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

METRICS: Mapping[str, Mapping[str, str]] = {
    "rollouts": {
        "trajectories": "Responses sampled.",
        "response_tokens": "Tokens of all responses.",
        "mean_response_tokens": "Tokens of a response, mean.",
        "max_response_tokens": "Tokens of the longest response.",
        "truncated_share": "Share of responses that were cut at `rollouts.max_tokens`.",
        "entropy_per_token": "Mean of -log π(a|s) over the sampled tokens, in nats: the policy's entropy of a token.",
        "agreement_mean_gap": "|log π_engine - log π_trainer| of a token, mean, in nats.",
        "agreement_max_gap": "The same, largest.",
        "agreement_response_gap": "The same of the sum over a response, mean, in nats.",
        "agreement_max_response_gap": "The same of the sum over a response, largest.",
        "agreement_trajectories": "Responses that sampler and trainer were compared on.",
        "engine": "The engine that sampled.",
        "engine_reason": "Why this engine was chosen.",
    },
    "rewards": {
        "reward_mean": "Mean reward of the trajectories.",
        "reward_std": "Standard deviation of the rewards.",
        "undecided_share": "Share without a verdict: timeout, memory or error.",
        "status_*": "Responses that ended with this status.",
        "*_mean": "Mean of this reward component, before its weight.",
        "audit_disagreement_share": "Share of a sample in which a second method comes to another verdict.",
        "audit_rewarded_but_called_wrong": "Rewarded responses of the sample that the second method calls wrong.",
        "rows_sent_to_workers": "Responses that were graded; equal ones are graded once.",
        "sandbox": "How the processes that grade were confined.",
    },
    "ref-logprobs": {
        "ref_logprob_sum_mean": "Mean of Σ log π_ref over a response's tokens, in nats.",
        "ref_value_first_mean": "Mean of V_ref(s₁), in nats.",
        "behaviour_kl": "KL of the sampling policy to the reference, on its own samples, in nats a response.",
    },
    "train, base-policy": {
        "updates": "Optimizer steps.",
        "update": "Number of the optimizer step, in `metrics.jsonl`.",
        "tokens": "Tokens trained on, those of prompts included.",
        "trajectories": "Trajectories of the mix; in `metrics.jsonl` those of the update.",
        "loss": "Mean loss of a term of the objective.",
        "loss_first": "Loss of the first update.",
        "loss_last": "Loss of the last update.",
        "grad_norm": "Norm of the gradient before clipping.",
        "learning_rate": "Learning rate of the policy.",
        "reward": "Mean reward of the trajectories trained on.",
        "response_tokens": "Tokens of a response trained on, mean.",
        "truncated": "Share of the trajectories trained on that were cut.",
        "residual_mean": "Bellman residual of a trajectory (or pair), mean, in nats.",
        "residual_abs": "Size of that residual, mean.",
        "residual_std": "Its standard deviation.",
        "residual_p*": "Its percentile.",
        "value_first": "V_θ(s₁), mean, in nats.",
        "logratio": "Σ(log π_θ - log π_ref) of the trajectories trained on, mean, in nats. No KL: others sampled them.",
        "nll": "Negative log-likelihood of a response, mean, in nats.",
        "advantage": "Advantage, mean.",
        "clipped": "Share of tokens whose importance weight was clipped.",
        "importance": "Importance weight of a token, mean.",
        "value_error": "Squared error of the critic, mean.",
        "control_cosine": "Cosine of the gradient with that of imitating the rewarded responses.",
        "seconds": "Wall seconds of the stage; in `metrics.jsonl` those of the update.",
        "seconds_*": "Wall seconds of this segment of the training (Fig. 2b of the paper).",
        "tokens_per_second": "Tokens trained on a second.",
        "model_tflops_per_second": "10¹² floating-point operations of forward and backward a second.",
        "mfu": "Share of the GPU's peak that these operations are.",
        "peak_memory_gb": "Largest memory: of the GPU, without one the process's own. GiB.",
        "by_source": "Reward and residuals by data set, in `metrics.jsonl`.",
        "by_lag": "Reward and residuals by age in generations, in `metrics.jsonl`.",
        "policy_id": "Hash of weights and tokenizer of policy[0].",
    },
    "evaluate, regrade": {
        "*_accuracy": "Avg@k of the benchmark: mean over problems of the mean over samples.",
        "*_accuracy_sound": "The same without problems that cannot be answered as stated.",
        "*_pass_at_*": "Chance that one of j samples is right, mean over problems.",
        "*_maj_at_*": "Share of problems whose most frequent answer is right.",
        "*_response_tokens": "Tokens of a response, mean.",
        "*_truncated_share": "Share of responses that were cut.",
        "*_unparsed_share": "Share of responses without an answer that is understood.",
        "*_problems": "Problems asked.",
        "*_samples": "Responses to each problem.",
        "*_low": "Lower end of the number's 95% interval.",
        "*_high": "Upper end of the number's 95% interval.",
    },
    "logged-labels": {
        "data_sets": "The logged data sets of `replay.logged`.",
        "partitions_labelled": "Partitions of labels that were missing and are written now.",
    },
    "import": {
        "rows": "Rows of the log.",
        "trajectories": "Trajectories that were kept.",
        "bad_rows": "Rows in table `quarantine`.",
        "repeated_rows": "Rows that repeat another one (--duplicates).",
        "left_out_rows": "Rows that --where leaves out.",
        "response_tokens": "Tokens of all responses.",
        "max_response_tokens": "Tokens of the longest response.",
        "reward_mean": "Mean reward of those that came with one.",
        "shape": "The format that the log was read as.",
        "from *": "Trajectories whose token ids came from this.",
        "finish *": "Trajectories that ended for this reason.",
        "bad *": "Rows that were refused for this reason.",
        "field *": "Where this field of ours was found in the log.",
        "gold_answers_not_understood": "Gold answers that only the same text can match.",
    },
    "every stage": {
        "seconds": "Wall seconds of the stage's own work.",
        "rows": "Rows written.",
        "bytes": "Bytes of the table's shards.",
        "shards": "Files of the table.",
        "overhead_seconds": "Wall seconds of the Dagster step beyond the stage's own: its process and imports.",
        "skipped": "Whether the result was there already.",
    },
}
"""By the commands that report them: name of a metric, with `*` for what varies -> what it is, and its unit."""

PRINTED: Mapping[str, Mapping[str, str]] = {
    "run": {
        "policy": "Generation g of policy[g].",
        "sampled reward %": "Mean reward of what policy[g] sampled, with its 95% interval over prompts.",
        "* %": "Accuracy of policy[g] on this benchmark.",
        "|res.|": "Size of the Bellman residual in the training of policy[g], mean, in nats.",
        "V(s_1)": "Soft value of the first state in that training, mean, in nats.",
        "KL": "KL of policy[g] to the reference on its own samples, in nats a response.",
        "tokens": "Tokens of all sampled responses.",
        "* s": "Wall seconds of this stage.",
    },
    "status": {
        "experiment": "Name of the experiment.",
        "generations": "Whole generations that are finished, of all.",
        "next": "The first stage that is not finished.",
        "what is left costs": "Time and disk of all stages that are not finished.",
        "generation": "Generation, or several that stand alike.",
        "base_policy, rollouts, rewards, ref_logprobs, trained_policy, benchmark_scores": "finished, running, open, or "
        "out of date: made from what has changed since.",
    },
    "evaluate": {
        "benchmark": "Name of the benchmark.",
        "protocol": "Samples of a problem, temperature, longest response, template.",
        "n": "Problems.",
        "accuracy %": "Avg@k with its 95% interval.",
        "pass@k %": "Chance that one of k samples is right.",
        "maj@k %": "Share of problems whose most frequent answer is right.",
        "tokens": "Tokens of a response, mean.",
        "cut %": "Responses cut at the limit.",
        "unparsed %": "Responses without an answer that is understood.",
    },
    "compare": {
        "benchmark": "Name of the benchmark.",
        "problems": "Problems that both answered.",
        "A = *": "Accuracy of A in percent.",
        "B = *": "Accuracy of B in percent.",
        "B - A": "Difference in points, paired by problem, with its 95% interval.",
        "told apart": "Whether the interval leaves out 0.",
        "remarks": "What the two were not measured alike in.",
    },
    "leaderboard": {
        "policy": "EXPERIMENT:GENERATION, or the policy's name.",
        "*": "Accuracy in percent on this benchmark.",
    },
    "benchmarks": {
        "name": "Name, as `evaluation.benchmarks` takes it.",
        "title": "Name in the paper.",
        "rows": "Problems found, or expected.",
        "content hash": "Hash of the problems.",
        "protocol": "Samples of a problem, and temperature.",
        "from": "Where the problems come from.",
        "remarks": "How they differ from what is known, and which are flawed.",
    },
    "patterns": {
        "group": "Generation, or behaviour policy.",
        "responses": "Responses looked at.",
        "prompts": "Prompts that they answer.",
        "* %": "Responses that show this pattern.",
    },
    "diagnostics": {
        "source": "`generation`, or the logged data set.",
        "lag": "Generations between sampling and training.",
        "rows": "Trajectories of the mix.",
        "sampled": "Trajectories measured.",
        "reward": "Mean reward.",
        "residual": "Bellman residual before the first update, mean, in nats.",
        "± std": "Standard deviation of the number before it.",
        "Σ(θ-ref)": "Σ(log π_θ - log π_ref) of a response, mean, in nats.",
        "log w 5%": "Percentile of the log importance weight log π_θ/μ of a response.",
        "50%": "Its median.",
        "95%": "Its 95th percentile.",
        "ESS": "Effective sample size.",
        "of n": "ESS as a share of the samples.",
        "χ²": "χ²(π_θ ‖ μ), estimated.",
        "mean w": "Mean weight: 1 where μ covers π_θ.",
    },
    "inspect": {
        "data set": "Experiment, or logged/NAME.",
        "rows by table": "Rows of each table.",
        "table": "Table; labels have their version behind `@`.",
        "generations": "Committed generations.",
        "rows": "Rows.",
        "shards": "Files.",
        "MB": "Megabytes of the files.",
        "generation": "Generation.",
        "age": "Generations since it was sampled.",
        "trajectories": "Responses.",
        "tokens": "Tokens of all responses.",
        "median": "Median length of a response in tokens.",
        "p95": "95th percentile of the lengths.",
        "longest": "Longest response in tokens.",
        "finish": "How many responses ended how.",
        "behaviour policy": "Who sampled them.",
        "* \\ *": "Verdict by the one version of a label, against the other's.",
        "success": "Responses that the other version calls right.",
        "no success": "Responses that the other version calls wrong.",
        "quarantined because": "Field and reason of rows that an import refused.",
    },
    "show": {
        "label table": "Table of the label.",
        "value": "Its value.",
        "status": "How grading ended.",
        "extracted answer": "The answer that was found.",
        "made by": "Verifier or reference policy.",
    },
    "doctor": {
        "(empty)": "ok, look or STOP.",
        "check": "What was looked at.",
        "found, and what to do": "What was found; behind → the next step.",
    },
}
"""By command: column of a table that it prints, with `*` for what varies -> what it holds."""


def metric_meaning(name: str) -> str | None:
    """What a metric is; None for one that no line explains."""
    return next((text for lines in METRICS.values() if (text := _line(lines, name))), None)


def column_meaning(command: str, column: str) -> str | None:
    """What a column of a command's tables holds; None for one that no line explains."""
    return _line(PRINTED[command], column or "(empty)")


def _line(lines: Mapping[str, str], name: str) -> str | None:
    if name in lines:
        return lines[name]
    return next((text for key, text in lines.items() if any(fnmatchcase(name, one) for one in key.split(", "))), None)
