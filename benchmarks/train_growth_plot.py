"""What an update costs, drawn: seconds and memory against response length, vocabulary and number of trajectories.

python -m benchmarks.train_growth_plot        # from benchmarks/results/train_step.json to docs/images/train_growth.png
"""

import json
from pathlib import Path

from matplotlib.figure import Figure

RESULTS = Path("benchmarks/results/train_step.json")
PICTURE = Path("docs/images/train_growth.png")
AXES = {"length": "response tokens", "vocabulary": "vocabulary", "trajectories": "trajectories an update"}


def main() -> None:
    growth = json.loads(RESULTS.read_text())["growth"]
    figure = Figure(figsize=(10, 5), dpi=100, layout="constrained")
    for column, (name, label) in enumerate(AXES.items()):
        sizes = [row[name] for row in growth[name]]
        above_start = [row["peak_rss_mb"] - row["rss_before_step_mb"] for row in growth[name]]
        costs = {"processor seconds": [row["cpu_s"] for row in growth[name]], "MB above the start": above_start}
        for line, (unit, values) in enumerate(costs.items()):
            axis = figure.add_subplot(2, 3, 3 * line + column + 1)
            axis.plot(sizes, values, marker="o", ms=4)
            # Proportional growth from the first point, to see at a glance what is steeper or flatter.
            axis.plot(sizes, [values[0] * size / sizes[0] for size in sizes], "k:", alpha=0.5, label="proportional")
            axis.set_xscale("log", base=2)
            axis.set_yscale("log", base=2)
            axis.set_xlabel(label)
            axis.set_ylabel(unit)
            axis.grid(alpha=0.25)
            axis.legend(frameon=False, fontsize=8)
    figure.savefig(PICTURE, metadata={"Software": None})


if __name__ == "__main__":
    main()
