"""What training must never see: damaged bytes, and labels that belong to other trajectories."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import TbrmError
from pipeline.replay.mix import resolve_mix
from pipeline.store import Store, open_store
from tests.unit.replay.replay_store import (
    REFERENCE,
    make_experiment,
    make_store,
    reference_rows,
    reward_rows,
    write_generation,
    write_table,
)

SIDECARS = ("rewards", "ref_logprobs")
MANIFESTS = [f"exp/{table}/generation=0000/_manifest.json" for table in ("rollouts", *SIDECARS)]


def read_mix(store: Store) -> int:
    """Everything that training reads of the mix; returns its rows."""
    mix = resolve_mix(store, make_experiment(), 0)
    return sum(table.num_rows for _, table in mix.tables(store))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    write_generation(make_store(root), "exp", 0)
    assert read_mix(open_store(str(root))) == 16
    return root


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_in_any_shard_is_found_before_training(whole: Path, data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(str(p.relative_to(whole)) for p in whole.rglob("shard-*"))))
    content = (whole / name).read_bytes()
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as root:
        copy = Path(shutil.copytree(whole, root, dirs_exist_ok=True))
        (copy / name).write_bytes(content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        with pytest.raises(TbrmError, match=f"{Path(name).name} is damaged"):
            read_mix(open_store(root))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_cut_shard_or_a_flipped_bit_in_a_manifest_changes_nothing_silently(whole: Path, data: Any) -> None:
    name = data.draw(
        st.sampled_from(
            sorted(str(p.relative_to(whole)) for p in whole.rglob("exp/*/*/[!_]*") if p.is_file()) + MANIFESTS
        )
    )
    content = (whole / name).read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    bit = data.draw(st.integers(0, 7))
    cut = name.endswith(".parquet")
    damaged = content[:at] if cut else content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    with tempfile.TemporaryDirectory() as root:
        copy = Path(shutil.copytree(whole, root, dirs_exist_ok=True))
        (copy / name).write_bytes(damaged)
        store = open_store(root)
        try:
            rows = read_mix(store)
        except TbrmError:
            return
        # What the hash leaves out (stats, code version, white space) may change; what is read may not.
        assert not cut
        assert rows == 16
        for table in ("rollouts", *SIDECARS):
            intact = open_store(str(whole)).partition("exp", table, 0)
            assert store.partition("exp", table, 0).manifest().shards == intact.manifest().shards


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_labels_of_other_rows_never_pass(data: Any) -> None:
    """A sidecar whose rows were reordered, lost, repeated or taken from elsewhere is refused or was never wrong."""
    with tempfile.TemporaryDirectory() as root:
        store = make_store(Path(root))
        made = write_generation(store, "exp", 0, tables=())
        rollouts = store.partition("exp", "rollouts", 0)
        table = data.draw(st.sampled_from(SIDECARS))
        rows = [row for shard in made for row in shard]
        order = data.draw(
            st.one_of(
                st.permutations(range(16)),
                st.lists(st.integers(0, 15), min_size=16, max_size=16),
                st.lists(st.integers(0, 15), min_size=8, max_size=15, unique=True),
            )
        )
        parents = {rollouts.name: rollouts.manifest().hash}
        for sidecar in SIDECARS:
            labels = reward_rows(rows) if sidecar == "rewards" else reference_rows(rows)
            chosen = [labels[i] for i in order] if sidecar == table else labels
            more = {} if sidecar == "rewards" else {"reference policy": REFERENCE}
            write_table(store, "exp", sidecar, 0, [chosen[:8], chosen[8:]], parents | more)
        if list(order) == list(range(16)):
            assert read_mix(store) == 16
            return
        with pytest.raises(TbrmError, match=r"belongs to another trajectory|was made from other rollouts"):
            read_mix(store)
