"""What the Hugging Face hub, or its cache on this machine, says of a repository, in at most a few seconds; and a folder
put there."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.config.policy import HubModel, PolicyFolder, ServerModel
from pipeline.errors import TbrmError

Kind = Literal["model", "dataset"]
_TIMEOUT_S = 2.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubSilent(TbrmError):
    """The hub did not answer, or must not be asked: nothing is known of the repository."""


@dataclass(frozen=True)
class HubRepository:
    """A repository: `cached` is its snapshot on this machine, else `tree` is what the hub's API tells of it."""

    cached: Path | None
    tree: dict[str, Any]


def look_up(kind: Kind, name: str, revision: str | None) -> HubRepository:
    """The repository at `revision` (None: its newest commit), from the cache where it lies there.

    Raises TbrmError when the hub has no such repository or does not show it to this user, HubSilent when it does not
    answer.
    """
    from huggingface_hub import constants

    cached = _cached(kind, name, revision)
    if cached is not None:
        return HubRepository(cached, {})
    if constants.HF_HUB_OFFLINE:
        raise HubSilent(f"{name} is not in the cache of this machine, and HF_HUB_OFFLINE forbids to ask the hub")
    return HubRepository(None, _get(f"api/{kind}s/{name}/revision/{revision or 'main'}", name, revision))


def commit_of(model: HubModel) -> str:
    """The commit that a model's revision means now: from its cache on this machine, else from the hub.

    Raises as `look_up`.
    """
    if model.revision and _COMMIT.fullmatch(model.revision):
        return model.revision
    found = look_up("model", model.repository, model.revision)
    return found.cached.name if found.cached is not None else str(found.tree["sha"])


def download(model: HubModel) -> Path:
    """The model's files at that commit, on this machine. Raises TbrmError where they cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.repository, revision=commit_of(model)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, HubSilent, OSError) as error:
        raise TbrmError(
            f"{model.repository!r} is no folder, and no repository of that name can be had from the hub: {error}"
        ) from error


def push(folder: Path, name: str, kind: Kind, private: bool = True) -> str:
    """Put a folder into a repository of the hub, made where it is not there; returns the address of the commit.

    The hub's own client does it, with the token of `hf auth login` or HF_TOKEN. Raises TbrmError where the hub refuses.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(endpoint=constants.ENDPOINT)
    try:
        api.create_repo(name, repo_type=kind, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, repo_type=kind, folder_path=folder, commit_message="Exported by tbrm")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled, HTTPError) as error:
        raise TbrmError(
            f"{constants.ENDPOINT} did not take {folder} as {kind} {name!r}: {str(error).strip()[:500]}. The folder "
            f"is there: log in with `hf auth login`, then `hf upload {name} {folder} --repo-type {kind}`"
        ) from error
    return str(done.commit_url)


def local_folder(named: PolicyFolder | HubModel | ServerModel) -> Path:
    """The folder to load a policy from. Raises TbrmError for a server, whose weights are not to be had."""
    match named:
        case PolicyFolder(folder):
            return folder
        case HubModel():
            return download(named)
        case ServerModel(address):
            raise TbrmError(f"{address} is a server, whose weights nobody can load: name a folder or a hub id here")


def read_file(name: str, revision: str | None, file: str) -> dict[str, Any]:
    """A small JSON file of a model's repository. Raises as `look_up`."""
    return _get(f"{name}/resolve/{revision or 'main'}/{file}", name, revision)


def _cached(kind: Kind, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    pointer = folder / "refs" / (revision or "main")
    commit = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else revision or ""
    snapshot = folder / "snapshots" / commit
    if commit and snapshot.is_dir():
        return snapshot
    return _prepared(name) if kind == "dataset" else None


def _prepared(name: str) -> Path | None:
    """Where `datasets` keeps what it has read of a repository; it goes on with that when the hub is silent."""
    from huggingface_hub import constants

    folder = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    wanted = name.replace("/", "___").lower()
    return next((path for path in folder.glob("*___*") if path.name.lower() == wanted), None)


def _get(path: str, name: str, revision: str | None) -> dict[str, Any]:
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    address = f"{constants.ENDPOINT}/{path}"
    try:
        answer = httpx.get(address, headers=build_hf_headers(), timeout=_TIMEOUT_S, follow_redirects=True)
        if answer.status_code in (401, 403, 404):
            at = f" at revision {revision}" if revision else ""
            raise TbrmError(
                f"{constants.ENDPOINT} shows no {name}{at} to this user (status {answer.status_code}): correct the "
                "name, or log in with `hf auth login` where it is gated"
            )
        tree = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise HubSilent(f"{constants.ENDPOINT} did not answer for {name}: {error or type(error).__name__}") from error
    if not isinstance(tree, dict):
        raise HubSilent(f"{address} is no JSON object: is HF_ENDPOINT a hub?")
    return tree
