"""Before a run: is what the store holds of an experiment made by the settings of now?"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import Experiment
from pipeline.errors import StoreError
from pipeline.policies.refs import pointer_path
from pipeline.run.configurations import Difference, differences, mixed, read_configuration
from pipeline.store import Store
from trainer.stages.base_policy import differences_of_base
from trainer.stages.policy_folder import TABLE, differences_of, trained_generations


def check_whole(store: Store, experiment: Experiment) -> None:
    """Raise StoreError naming every field in which something of the experiment was made by other settings."""
    from pipeline.reference import DECIDES as REF_LOGPROBS
    from pipeline.rewards.stage import DECIDES as REWARDS
    from pipeline.sampling.rollouts import DECIDES as ROLLOUTS

    found: list[tuple[str, list[int], list[Difference]]] = []
    if store.fs.exists(pointer_path(store, experiment.name, 0)):
        found.append(("policy[0]", [], differences_of_base(store, experiment)))
    now = experiment.model_dump(mode="json")
    for table, decides in (("rollouts", ROLLOUTS), ("rewards", REWARDS), ("ref_logprobs", REF_LOGPROBS)):
        found += _of_table(store, experiment.name, table, now, decides)
    by_words: dict[str, tuple[list[int], list[Difference]]] = {}
    for generation in trained_generations(store, experiment.name):
        different = differences_of(store, experiment, generation)
        by_words.setdefault(str([str(one) for one in different]), ([], different))[0].append(generation)
    found += [(TABLE, generations, different) for generations, different in by_words.values()]
    if wrong := [one for one in found if one[2]]:
        raise StoreError(mixed(experiment.name, wrong))


def _of_table(
    store: Store, name: str, table: str, now: Mapping[str, Any], decides: Sequence[str]
) -> list[tuple[str, list[int], list[Difference]]]:
    by_file: dict[str, list[int]] = {}
    for generation in store.generations(name, table):
        if made_by := store.partition(name, table, generation).manifest().configuration:
            by_file.setdefault(made_by, []).append(generation)
    return [
        (table, generations, differences(read_configuration(store, made_by), now, decides))
        for made_by, generations in by_file.items()
    ]
