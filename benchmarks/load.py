"""How costs grow: a long experiment in the store, and many experiments in one code location.

    python -m benchmarks.load --generations 2 20 200 --experiments 1 10 50    # results/load.json, docs/images/load.png

A generation is 5,000 generated trajectories in 50 shards of each table, so 200 of them are a million trajectories in
10,000 shards. Every measurement is a process of its own; seconds are processor seconds, which other load on the machine
changes little, and memory is the largest resident set, imports included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assets.processes.supervisor import descendants
from benchmarks.orchestration import cpu_seconds
from benchmarks.store_rows import PER_PROMPT, REFERENCE, RESULTS, generated, machine
from pipeline.config import Experiment, build_experiment
from pipeline.store import Store, open_store
from tests.support.served_ui import served
from tests.support.tiny import write_tiny

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "load.png"
NAME, SHARDS, ROWS = "long", 50, 100


def experiment(generations: int, window: int) -> Experiment:
    tree = {
        "name": NAME,
        "generations": generations,
        "policy": {"base": "builtin:tiny-arith"},
        "prompts": {"source": "arithmetic", "per_generation": SHARDS * ROWS // PER_PROMPT},
        "rollouts": {"n": PER_PROMPT},
        "replay": {"window": window},
        "training": {},
    }
    return build_experiment(tree, "benchmark")


def write_generations(store: Store, first: int, end: int) -> float:
    """Rollouts and both sidecars of the generations; seconds."""
    started = time.perf_counter()
    for generation in range(first, end):
        pointer = json.dumps({"policy_id": REFERENCE, "folder": "nowhere", "parents": {}}).encode()
        store.write_atomic(store.join(NAME, f"policy/generation={generation:04d}/policy.json"), pointer)
        made = [generated(generation * SHARDS + shard, ROWS) for shard in range(SHARDS)]
        rollouts = store.partition(NAME, "rollouts", generation)
        with rollouts.writer("bench", {}) as writer:
            for shard, tables in enumerate(made):
                writer.write(shard, tables[0])
            origin = writer.commit(SHARDS, {"trajectories": SHARDS * ROWS}).hash
        for place, name in ((1, "rewards"), (2, "ref_logprobs")):
            parents = {rollouts.name: origin} | ({"reference policy": REFERENCE} if place == 2 else {})
            with store.partition(NAME, name, generation).writer("bench", parents) as writer:
                for shard, tables in enumerate(made):
                    writer.write(shard, tables[place])
                writer.commit(SHARDS)
    return time.perf_counter() - started


def look_for_finished(root: str, generations: int) -> None:
    """What a run that is started again does first: every stage of every generation."""
    from assets.experiment.stages import due_stages

    long, store = experiment(generations, 1), open_store(root)
    found = sum(stage.is_finished(store, long, g) for g in range(generations) for stage in due_stages(long, g))
    assert found == 3 * generations, found


def resolve_newest(root: str, generations: int) -> None:
    """The mix of four generations: rows counted, filtered and drawn."""
    _resolve(root, generations, min(4, generations))


def resolve_all(root: str, generations: int) -> None:
    """The mix of every generation."""
    _resolve(root, generations, generations)


def _resolve(root: str, generations: int, window: int) -> None:
    from pipeline.replay.mix import resolve_mix

    mix = resolve_mix(open_store(root), experiment(generations, window), generations - 1)
    assert len(mix.to_json()["sources"]) == window


def inspect(root: str, generations: int) -> None:
    """`tbrm inspect long`: reads every shard of every table."""
    _tbrm("inspect", NAME, "--root", root)


def sql(root: str, generations: int) -> None:
    """Mean reward by generation, by `tbrm sql`."""
    _tbrm("sql", "select generation, avg(reward) from trajectories group by 1 order by 1", "--root", root)


def _tbrm(*words: str) -> None:
    from click.testing import CliRunner

    from pipeline.cli.main import tbrm

    result = CliRunner().invoke(tbrm, words)
    assert result.exit_code == 0, result.output


def load_definitions(root: str, experiments: int) -> None:
    """Every asset, job, sensor and schedule of the code location."""
    os.chdir(root)
    from assets.definitions import build_definitions
    from assets.experiment.source import read_experiments

    good, broken = read_experiments()
    assert len(good) == experiments
    assert not broken
    build_definitions(good).resolve_asset_graph()


STORE: dict[str, Callable[[str, int], None]] = {
    f.__name__: f for f in (look_for_finished, resolve_newest, resolve_all, inspect, sql)
}
CHILDREN = STORE | {"load_definitions": load_definitions}


def in_a_process(name: str, root: str, size: int) -> dict[str, float]:
    """Seconds and peak memory of one measurement."""
    command = [sys.executable, "-m", "benchmarks.load", "--child", name, root, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]
    return json.loads(done.stdout.splitlines()[-1])


def child(name: str, root: str, size: int) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    CHILDREN[name](root, size)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with that of the process that started us
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    sys.stdout.write(
        "\n" + json.dumps({"seconds": round(cpu, 3), "wall": round(wall, 3), "peak_mb": round(peak)}) + "\n"
    )


def resident_mb(pids: list[int]) -> float:
    """Resident memory of these processes together."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_graph(folder: Path) -> dict[str, float]:
    """From the start of `tbrm ui` to the whole asset graph, the graph asked for again; of the whole process tree."""
    query = "{ assetNodes { id groupName opNames dependencyKeys { path } assetChecksOrError { __typename } } }"
    began = time.perf_counter()
    with served(folder / "data", folder) as ui:
        nodes = len(ui.query(query)["assetNodes"])
        first = time.perf_counter() - began
        began = time.perf_counter()
        ui.query(query)
        again = time.perf_counter() - began
        cpu, memory = cpu_seconds(ui.process.pid), resident_mb([ui.process.pid, *descendants(ui.process.pid)])
    seconds = {"seconds": round(cpu, 2), "wall": round(first, 2), "wall_again": round(again, 3)}
    return {"assets": nodes, **seconds, "peak_mb": round(memory)}


def measure_store(sizes: list[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="tbrm-load-") as root:
        done = 0
        for size in sizes:
            written = write_generations(open_store(root), done, size)
            row: dict[str, Any] = {"generations": size, "trajectories": size * SHARDS * ROWS, "shards": size * SHARDS}
            row["write"] = {"seconds": round(written, 1), "generations": size - done}
            rows.append(row | {name: in_a_process(name, root, size) for name in STORE})
            sys.stderr.write(f"{json.dumps(rows[-1])}\n")
            done = size
    return rows


def measure_experiments(sizes: list[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="tbrm-load-") as name:
            for number in range(size):
                write_tiny(Path(name), generations=200, name=f"tiny{number:02d}")
            loaded = in_a_process("load_definitions", name, size)
            rows.append({"experiments": size, "load_definitions": loaded, "ui": open_graph(Path(name))})
            sys.stderr.write(f"{json.dumps(rows[-1])}\n")
    return rows


def draw(result: dict[str, Any]) -> None:
    """Seconds and memory against size, with proportional growth dotted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), dpi=100, layout="constrained")
    axes = figure.subplots(2, 2)
    by_store = {name: [row[name] for row in result["store"]] for name in STORE}
    by_ui: dict[str, list[dict[str, float]]] = {
        "load definitions": [row["load_definitions"] for row in result["experiments"]],
        "UI, from start to graph": [row["ui"] for row in result["experiments"]],
    }
    halves = (("trajectories", result["store"], by_store), ("experiments", result["experiments"], by_ui))
    for column, (unit, rows, series) in enumerate(halves):
        sizes = [row[unit] for row in rows]
        for line, (key, words) in enumerate((("seconds", "processor seconds"), ("peak_mb", "MB"))):
            axis = axes[line][column]
            for number, (name, values) in enumerate(series.items()):
                ys = [value[key] for value in values]
                axis.plot(sizes, ys, marker="o", ms=4, color=f"C{number}", label=name.replace("_", " "))
                if line == 0:
                    proportional = [ys[-1] * size / sizes[-1] for size in sizes]
                    axis.plot(sizes, proportional, ls=":", color=f"C{number}", alpha=0.5)
            axis.set(xlabel=unit, ylabel=words, xscale="log", yscale="log")
            axis.grid(alpha=0.25)
            axis.legend(fontsize=7, frameon=False)
    figure.savefig(PICTURE, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, nargs="+", default=[2, 20, 200])
    parser.add_argument("--experiments", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--out", type=Path, default=RESULTS / "load.json")
    parser.add_argument("--child", nargs=3)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1], int(options.child[2]))
        return
    result: dict[str, Any] = {"machine": machine(), "rows_per_shard": ROWS, "shards_per_generation": SHARDS}
    result["store"] = measure_store(options.generations)
    result["experiments"] = measure_experiments(options.experiments)
    result["load_after"] = round(os.getloadavg()[0], 2)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(result)


if __name__ == "__main__":
    main()
