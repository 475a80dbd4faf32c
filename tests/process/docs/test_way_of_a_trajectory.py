"""From the first prompt to the gradient: how many files of the product do eight prompts pass?

A file is passed where one of its functions is called in this process: while rollouts, rewards and reference log-probs
are made, and in training until the trained policy is exported. What only declares (types, tables of options) is not
counted, nor what grading workers run in processes of their own: here every response is labelled without one.
`python -m tests.process.docs.test_way_of_a_trajectory` prints the files.
"""

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pipeline.config import Experiment
from pipeline.reference import run_ref_logprobs
from pipeline.rewards.stage import run_rewards
from pipeline.run.resumable import StageReport
from pipeline.sampling.rollouts import run_rollouts
from pipeline.store import Store, open_store
from tests.support.tiny_store import make_experiment
from trainer.stages.base_policy import run_base_policy
from trainer.stages.train import run_train

ROOT = Path(__file__).parents[3]
ROOMS = ("pipeline", "trainer", "evals", "assets")
STAGES = (run_rollouts, run_rewards, run_ref_logprobs, run_train)
END = "export_policy"
MOST = 45


def files_passed(
    stage: Callable[[Experiment, Store, int], StageReport], experiment: Experiment, store: Store
) -> set[str]:
    """Files of the product whose functions the stage calls."""
    called: set[str] = set()
    ended = threading.Event()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if code.co_name == END:
            ended.set()
        if event == "call" and not ended.is_set() and code.co_name != "<module>":
            called.add(code.co_filename)

    sys.setprofile(note)
    threading.setprofile(note)
    try:
        stage(experiment, store, 0)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    below = (Path(file).relative_to(ROOT) for file in called if file.startswith(f"{ROOT}/"))
    return {str(file) for file in below if file.parts[0] in ROOMS}


def way(root: Path) -> dict[str, set[str]]:
    """Files passed, by stage."""
    store, experiment = open_store(str(root)), make_experiment()
    run_base_policy(experiment, store)
    return {stage.__name__: files_passed(stage, experiment, store) for stage in STAGES}


def test_from_prompt_to_gradient_is_a_short_way(tmp_path: Path) -> None:
    found = way(tmp_path)
    assert all(len(files) >= 10 for files in found.values()), found
    together = sorted(set.union(*found.values()))
    assert len(together) <= MOST, "\n".join([f"{len(together)} files:", *together])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        passed = way(Path(folder))
    for name, files in passed.items():
        print(f"{name}: {len(files)} files", *sorted(files), sep="\n  ")  # noqa: T201
    print(f"together: {len(set.union(*passed.values()))} files")  # noqa: T201
