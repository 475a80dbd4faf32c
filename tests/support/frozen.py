"""What an experiment's store holds, file by file, as one list to compare with another.

Left out of it is what no two runs share: seconds, places on this machine, and the version of the package.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

_SHARED_BY_NO_RUNS = ("seconds", "tokens_per_second", "policy", "code_version", "engine_reason", "sandbox")


def computes_as() -> str:
    """What decides how sums are rounded here. Machines that say the same give the same bytes."""
    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {capability}, numpy {np.__version__}, pyarrow {pa.__version__}"


def listing(root: Path, dataset: str) -> dict[str, str]:
    """SHA-256 of every committed shard and policy file of a data set, and of the manifests without what differs."""
    found: dict[str, str] = {}
    for path in sorted((root / dataset).rglob("*")):
        name = str(path.relative_to(root))
        if path.suffix in (".parquet", ".safetensors"):
            found[name] = _sha256(path.read_bytes())
        elif path.name in ("_manifest.json", "policy.json"):
            found[name] = _sha256(json.dumps(_comparable(json.loads(path.read_text())), sort_keys=True).encode())
    return {name: sha for name, sha in found.items() if "training_state" not in name}


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _comparable(inner)
            for key, inner in value.items()
            if not any(key.startswith(word) or key.endswith(word) for word in _SHARED_BY_NO_RUNS)
        }
    return [_comparable(inner) for inner in value] if isinstance(value, list) else value


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
