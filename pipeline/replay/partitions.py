"""From the replay configuration to partitions of the store, each with the labels that training reads."""

from dataclasses import dataclass

from pipeline.config import Experiment
from pipeline.config.replay import LoggedSource
from pipeline.config.training import OBJECTIVE_NEEDS
from pipeline.errors import StoreError
from pipeline.policies.load_save import check_table
from pipeline.policies.refs import published_tokenizer
from pipeline.reference import REFERENCE_PARENT, reference_id, reference_label
from pipeline.run.configurations import owner_of
from pipeline.store import Manifest, Partition, Store

GENERATION = "generation"


@dataclass(frozen=True)
class Source:
    """One partition that the mix draws from."""

    name: str
    """`generation`, or the name of the logged data set."""
    rollouts: Partition
    rewards: Partition
    ref_logprobs: Partition | None
    lag: int
    weight: float

    @property
    def partitions(self) -> list[Partition]:
        found = [self.rollouts, self.rewards]
        return [*found, self.ref_logprobs] if self.ref_logprobs else found


def find_sources(store: Store, experiment: Experiment, generation: int) -> list[Source]:
    """Partitions of the mix of `generation`, newest first, then logged ones. All are committed and fit together.

    Raises StoreError naming the command that makes the first missing one.
    """
    replay = experiment.replay
    needs_reference = OBJECTIVE_NEEDS[experiment.training.objective].reference
    reference = reference_id(store, experiment) if needs_reference else None
    own = published_tokenizer(store, experiment.name, generation)
    sources: list[Source] = []
    lags = _lags(experiment, generation)
    decays = [replay.generation_decay ** (lag - lags[0]) for lag in lags]
    for lag, decay in zip(lags, decays, strict=True):
        weight = (replay.generation_weight or 1.0) * decay / sum(decays)
        labels = (_table("rewards", replay.rewards), _table("ref_logprobs", replay.ref_logprobs))
        place = (owner_of(store, experiment.name, generation - lag), generation - lag)
        sources.append(_source(store, experiment, GENERATION, place, labels, reference, lag, weight))
    for logged in replay.logged:
        dataset = f"logged/{logged.name}"
        for number in _partitions(store, logged):
            labels = (_table("rewards", logged.rewards), _logged_reference(store, logged, number, reference))
            place, weight = (dataset, number), logged.weight or 1.0
            sources.append(_source(store, experiment, logged.name, place, labels, reference, 0, weight))
    for source in sources:
        check_table(source.rollouts.manifest(), own, f"policy[{generation}] of {experiment.name}")
    return sources


def _lags(experiment: Experiment, generation: int) -> list[int]:
    """Ages of the experiment's own generations in the mix, the newest first."""
    replay = experiment.replay
    if experiment.rollouts is None or replay.window == 0:
        return []
    newest = min(replay.lag, generation)
    return [lag for lag in range(newest, newest + replay.window) if lag <= generation]


def _table(table: str, label: str | None) -> str:
    return f"{table}@{label}" if label else table


def _partitions(store: Store, logged: LoggedSource) -> list[int]:
    found = store.generations(f"logged/{logged.name}", "rollouts")
    wanted = found if logged.generation is None else [logged.generation]
    if not found or wanted[0] not in found:
        known = ", ".join(d.removeprefix("logged/") for d in store.datasets() if d.startswith("logged/")) or "none"
        which = f"logged data set {logged.name!r}" + ("" if not found else f" generation {logged.generation}")
        raise StoreError(
            f"replay.logged: there is no {which} in {store.root} (known: {known}); "
            f"`tbrm import --name {logged.name} FILES` makes it"
        )
    return wanted


def _logged_reference(store: Store, logged: LoggedSource, generation: int, reference: str | None) -> str:
    """The chosen label, else the one made for this reference, else the table without a label."""
    if logged.ref_logprobs or reference is None:
        return _table("ref_logprobs", logged.ref_logprobs)
    labelled = f"ref_logprobs@{reference_label(reference)}"
    plain = store.partition(f"logged/{logged.name}", "ref_logprobs", generation)
    if store.partition(plain.dataset, labelled, generation).is_committed() or not plain.is_committed():
        return labelled
    return "ref_logprobs" if plain.manifest().parents.get(REFERENCE_PARENT) == reference else labelled


def _source(
    store: Store,
    experiment: Experiment,
    name: str,
    place: tuple[str, int],
    labels: tuple[str, str],
    reference: str | None,
    lag: int,
    weight: float,
) -> Source:
    dataset, generation = place
    rollouts = store.partition(dataset, "rollouts", generation)
    sidecars = [store.partition(dataset, label, generation) for label in labels[: 2 if reference else 1]]
    manifests: list[Manifest] = []
    for partition in (rollouts, *sidecars):
        if not partition.is_committed():
            raise StoreError(f"{partition.name} is not there yet: run `{_command(experiment, partition)}` first")
        manifests.append(partition.manifest())
    for partition, manifest in zip(sidecars, manifests[1:], strict=True):
        _check_fits(rollouts, manifests[0], partition, manifest, experiment)
    if reference:
        scored_by = manifests[2].parents.get(REFERENCE_PARENT)
        if scored_by != reference:
            raise StoreError(
                f"{sidecars[1].name} was scored by reference {scored_by}, but {experiment.name} has reference "
                f"{reference}: run `{_command(experiment, sidecars[1])} --replace`, or choose another version"
            )
    return Source(name, rollouts, sidecars[0], sidecars[1] if reference else None, lag, weight)


def _check_fits(
    rollouts: Partition, source: Manifest, sidecar: Partition, manifest: Manifest, experiment: Experiment
) -> None:
    """A sidecar that was made from other rollouts must not be used, even where its rows would line up."""
    made_from = manifest.parents.get(rollouts.name)
    same_rows = [shard.rows for shard in source.shards] == [shard.rows for shard in manifest.shards]
    if made_from != source.hash or not same_rows:
        raise StoreError(
            f"{sidecar.name} was made from other rollouts than {rollouts.name} now holds (manifest "
            f"{made_from or 'unknown'}, now {source.hash}): run `{_command(experiment, sidecar)} --replace`"
        )


def _command(experiment: Experiment, partition: Partition) -> str:
    """The command that writes a partition."""
    table, _, label = partition.table.partition("@")
    logged = partition.dataset.removeprefix("logged/") if partition.dataset.startswith("logged/") else None
    if table == "rollouts" and logged:
        return f"tbrm import --name {logged} FILES"
    owner = experiment.name if logged else partition.dataset
    command = f"tbrm {table.replace('_', '-')} --experiment {owner} --generation {partition.generation}"
    command += f" --logged {logged}" if logged else ""
    return command + (f" --label {label}" if label else "")
