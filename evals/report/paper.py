"""The paper's Table 1, to print beside our own numbers (arXiv 2505.15311; the paper states no intervals)."""

from collections.abc import Mapping

COLUMNS: tuple[str, ...] = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiadbench")
"""AIME and AMC are Avg@32 at temperature 1, the others greedy Avg@1; accuracies in percent."""

TABLE_1: Mapping[str, tuple[float, ...]] = {
    "Qwen2.5-Math-1.5B": (5.0, 1.9, 24.9, 63.4, 16.5, 30.8),
    "1.5B PPO n=1": (11.4, 4.5, 46.6, 72.2, 26.8, 36.0),
    "1.5B TBRM n=1": (13.2, 5.6, 48.6, 72.2, 27.2, 35.7),
    "1.5B GRPO n=4": (13.0, 7.1, 49.9, 71.2, 28.7, 37.5),
    "1.5B TBRM n=4": (14.3, 6.9, 52.0, 72.2, 30.5, 36.1),
    "Qwen2.5-Math-7B": (10.6, 2.8, 31.6, 67.4, 13.2, 29.3),
    "7B PPO n=1": (25.4, 13.2, 63.4, 76.4, 33.8, 39.3),
    "7B TBRM n=1": (24.1, 13.2, 63.4, 78.6, 36.4, 41.5),
    "7B GRPO n=4": (28.9, 10.7, 66.8, 79.8, 36.0, 42.5),
    "7B TBRM n=4": (30.5, 13.1, 68.4, 79.8, 36.4, 44.1),
    "7B GRPO n=16, 100 steps": (26.6, 11.0, 61.8, 77.8, 32.7, 40.4),
    "7B TBRM n=16, 100 steps": (27.9, 10.9, 62.8, 76.4, 33.5, 39.9),
}

GYM_COLUMNS = ("course_schedule", "family_relationships", "largest_island", "quantum_lock", "shortest_path")
GYM_TABLE: Mapping[str, tuple[float, ...]] = {
    "Qwen2.5-Math-1.5B": (29.5, 3.0, 11.0, 5.5, 0.0),
    "1.5B GRPO": (54.0, 84.0, 34.0, 30.5, 26.0),
    "1.5B TBRM": (60.0, 80.0, 38.0, 27.0, 31.0),
}
"""reasoning-gym, greedy, 100 test problems each, in percent."""
