"""log π, V and their gradients from hidden states: the kernels one could use, on the same numbers.

    OMP_NUM_THREADS=1 python benchmarks/head_kernels.py      # writes benchmarks/results/head_kernels.json

`ours` is `pipeline.scoring.scoring.head_scores`; `logits` holds [tokens, vocabulary]; `torch` is
`torch.nn.functional.linear_cross_entropy` with its default options, which gives log π but no V. Liger's kernels are
written in Triton and run on GPUs only. Each measurement is a process of its own: memory is the largest resident set
above what was there before, seconds are processor seconds of one thread.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from pipeline.scoring.scoring import head_scores

RESULT = Path(__file__).resolve().parent / "results" / "head_kernels.json"
TOKENS, HIDDEN = 1_024, 128
VOCABULARIES = (8_192, 49_152, 151_936)
KERNELS = ("logits", "torch", "ours 128", "ours 256", "ours 1024")


def logprobs(kernel: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """[R] log π of the targets."""
    if kernel == "logits":
        logits = hidden @ weight.T
        return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)
    if kernel == "torch":
        return -torch.nn.functional.linear_cross_entropy(
            hidden, weight, targets, reduction="none", options=torch.nn.LinearCrossEntropyOptions()
        )
    return head_scores(hidden, weight, None, targets, chunk_tokens=int(kernel.split()[1]))[0]


def measure(kernel: str, vocabulary: int) -> dict[str, float]:
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    weight = (0.05 * torch.randn(vocabulary, HIDDEN)).requires_grad_()
    targets = torch.randint(0, vocabulary, (TOKENS,))
    logprobs(kernel, hidden[:4], weight, targets[:4]).sum().backward()
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    result = logprobs(kernel, hidden, weight, targets)
    result.sum().backward()
    seconds = time.process_time() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    return {"cpu_s": round(seconds, 3), "extra_mb": round(peak), "sum": float(result.detach().double().sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measure(options.one[0], int(options.one[1]))) + "\n")
        return
    rows: list[dict[str, float | int | str]] = []
    for vocabulary in VOCABULARIES:
        for kernel in KERNELS:
            command = [sys.executable, __file__, "--one", kernel, str(vocabulary)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append({"kernel": kernel, "vocabulary": vocabulary, **json.loads(done.stdout)})
            sys.stderr.write(f"{rows[-1]}\n")
    result = {"torch": torch.__version__, "tokens": TOKENS, "hidden": HIDDEN, "load_average": os.getloadavg()[0]}
    RESULT.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
