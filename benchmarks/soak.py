"""An hour of the loop, unattended: what the served UI's processes and its disk grow by, a generation.

    python -m benchmarks.soak --minutes 60    # results/soak.json, docs/images/soak.png

`tbrm ui` serves a tiny experiment whose sensor starts one generation after the other; a viewer asks for the graph and
the runs at every sample. Slopes are least squares over the second half, when imports and caches have settled.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from assets.processes.supervisor import descendants
from benchmarks.load import resident_mb
from benchmarks.store_rows import RESULTS, machine
from benchmarks.unattended import start
from pipeline.store import open_store
from tests.support.served_ui import LOCATION, Ui, served
from tests.support.tiny import write_tiny

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "soak.png"
NAME, GENERATIONS = "soak", 9_999
ROLES = {
    "helpers": "supervisor.py",
    "webserver": "assets.app.webserver",
    "daemon": "_daemon",
    "code location": "grpc",
    "tbrm ui": "pipeline.cli.main",
}
_GRAPH = "{ assetNodes { id groupName dependencyKeys { path } } }"


def role_of(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return next((role for role, word in ROLES.items() if word in command), "helpers")


def usage(pids: list[int]) -> dict[str, float]:
    """Resident MB, open files and threads of these processes together."""
    return {
        "mb": round(resident_mb(pids), 1),
        "files": sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        "threads": sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
    }


def disk(folder: Path) -> dict[str, float]:
    """MB and files, and files that only a write under way should have."""
    sizes: list[int] = []
    temporary = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                sizes.append(path.stat().st_size)
                temporary += path.name.startswith("_tmp")
        except FileNotFoundError:  # written, and gone again
            continue
    return {"mb": round(sum(sizes) / 2**20, 2), "files": len(sizes), "temporary": temporary}


def sample(ui: Ui, lasting: dict[str, list[int]], began: float) -> dict[str, Any]:
    ui.query(_GRAPH)
    ui.runs()
    home = ui.root / "dagster_home"
    return {
        "minutes": round((time.monotonic() - began) / 60, 2),
        "generations": len(open_store(str(ui.root)).generations(NAME, "trained_policy")),
        "processes": {role: usage(pids) for role, pids in lasting.items()},
        "all_processes": 1 + len(descendants(ui.process.pid)),
        "store": disk(ui.root / NAME),
        "dagster": disk(home),
    }


def soak(folder: Path, minutes: float, every_s: float) -> list[dict[str, Any]]:
    """Samples until the time is over; the last one after the loop was paused and its last generation had ended."""
    write_tiny(folder, generations=GENERATIONS, prompts=8, name=NAME)
    with served(folder / "data", folder) as ui:
        lasting: dict[str, list[int]] = {}
        for pid in (ui.process.pid, *descendants(ui.process.pid)):
            lasting.setdefault(role_of(pid), []).append(pid)
        start(ui, NAME)
        began = time.monotonic()
        samples = []
        while time.monotonic() < began + 60 * minutes:
            samples.append(sample(ui, lasting, began))
            sys.stderr.write(f"{json.dumps(samples[-1])}\n")
            failed = [run for run in ui.runs() if run["status"] in ("FAILURE", "CANCELED")]
            assert not failed, [ui.messages(run["runId"])[-5:] for run in failed]
            time.sleep(every_s)
        find = "query($s: SensorSelector!) { sensorOrError(sensorSelector: $s) { ... on Sensor { id } } }"
        sensor = ui.query(find, s=LOCATION | {"sensorName": f"{NAME}_publish"})["sensorOrError"]["id"]
        pause = "mutation($i: String!) { stopSensor(id: $i) { __typename } }"
        assert ui.query(pause, i=sensor)["stopSensor"]["__typename"] == "StopSensorMutationResult"
        while any(run["status"] not in ("SUCCESS", "FAILURE", "CANCELED") for run in ui.runs()):
            time.sleep(1)
        time.sleep(5)
        samples.append(sample(ui, lasting, began))
    return samples


def series(samples: list[dict[str, Any]]) -> dict[str, list[float]]:
    """What is watched, by name."""
    found = {
        f"{role}, {key}": [s["processes"][role][key] for s in samples]
        for role in samples[0]["processes"]
        for key in ("mb", "files", "threads")
    }
    for place in ("store", "dagster"):
        found |= {f"{place}, {key}": [s[place][key] for s in samples] for key in ("mb", "files")}
    return found


def slopes(samples: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """First and last value, and growth a generation over the second half."""
    half = len(samples) // 2
    generations = [float(s["generations"]) for s in samples]
    return {
        name: {
            "first": values[0],
            "half": values[half],
            "last": values[-1],
            "a_generation": round(float(np.polyfit(generations[half:], values[half:], 1)[0]), 4),
        }
        for name, values in series(samples).items()
    }


def draw(samples: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=100, layout="constrained")
    panels = {", mb": "MB resident", ", files": "open files", "store": "MB of the store", "dagster": "MB of Dagster"}
    axes = dict(zip(panels, figure.subplots(2, 2).flat, strict=True))
    generations = [s["generations"] for s in samples]
    for name, values in series(samples).items():
        place, key = name.rsplit(", ", 1)
        if place in ("store", "dagster"):
            if key == "mb":
                axes[place].plot(generations, values)
        elif f", {key}" in axes:
            axes[f", {key}"].plot(generations, values, label=place)
    for panel, axis in axes.items():
        axis.set(xlabel="generations", ylabel=panels[panel], ylim=(0, None))
        axis.grid(alpha=0.25)
    for panel in (", mb", ", files"):
        axes[panel].legend(frameon=False, fontsize=8)
    figure.savefig(PICTURE, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between samples")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tbrm-soak-") as folder:
        samples = soak(Path(folder), options.minutes, options.every)
    result = {
        "machine": machine(),
        "minutes": options.minutes,
        "generations": samples[-1]["generations"],
        "growth": slopes(samples),
        "processes_before_and_after": [samples[0]["all_processes"], samples[-1]["all_processes"]],
        "temporary_files_at_the_end": samples[-1]["store"]["temporary"],
        "samples": samples,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    draw(samples)


if __name__ == "__main__":
    main()
