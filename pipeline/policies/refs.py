"""A policy is a Hugging Face folder with `policy.json`; publishing one as generation g is a small pointer file.

Trained policies lie in folders named by their content, `<experiment>/policies/<policy_id>`, and nothing in one is ever
changed: to train otherwise adds a folder and turns the pointer.

Weights are read by memory map. So in a store that is no local folder, each machine keeps a mirror of the policies: a
folder is uploaded once it is finished, with `policy.json` last, and fetched where it is used. Checkpoints of a training
under way stay in the mirror of the machine that trains.
"""

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Experiment
from pipeline.config.policy import BuiltModel, HubModel, PolicyFolder
from pipeline.errors import StoreError, TbrmError
from pipeline.policies.hub import commit_of, local_folder
from pipeline.policies.load_save import built_folder, load_tokenizer, tokenizer_info, user_cache
from pipeline.store import Store, TokenizerInfo, sync_folder, text_hash
from pipeline.store.files import from_json
from pipeline.store.locks import locked

POLICY_JSON = "policy.json"
"""The file that completes a policy folder; it names the hash of the others."""
POLICIES = "policies"
"""Folder of an experiment for policies that are named by their content."""


def local_root(store: Store) -> Path:
    """Local folder of the store's policies: the store itself, or this machine's mirror of it in the user's cache."""
    if store.is_local:
        return Path(store.base)
    return user_cache() / text_hash(store.root)[:16]


def upload(store: Store, folder: Path) -> None:
    """Put a finished folder of the mirror into the store; a folder that was there is kept beside it.

    A second call changes nothing.
    """
    if store.is_local or _same(store, folder):
        return
    target = _remote(store, folder)
    if store.fs.exists(f"{target}/{POLICY_JSON}"):  # else there is nothing, or what a killed upload left
        before = store.files(target)
        aside = f"{target}.replaced-{text_hash(store.read_bytes(f'{target}/{POLICY_JSON}').decode())[:12]}"
        for path in before:
            store.copy(path, f"{aside}/{path.rsplit('/', 1)[-1]}")
        # The mark goes first and comes last: a folder without it is not whole.
        for path in sorted(before, key=lambda path: not path.endswith(f"/{POLICY_JSON}")):
            store.fs.rm_file(path)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == POLICY_JSON):
        store.fs.put_file(str(path), f"{target}/{path.name}")


def fetch(store: Store, folder: Path) -> Path:
    """Bring `folder` of the mirror up to date with the store; a folder that the store does not have stays as it is.

    Where several processes ask at once, one downloads and the others wait for it. A process that was killed meanwhile
    leaves a partial folder, which the next one deletes.
    """
    if store.is_local or not store.fs.exists(f"{_remote(store, folder)}/{POLICY_JSON}") or _same(store, folder):
        return folder
    with locked(str(folder.with_name(f"_{folder.name}.lock"))):
        return folder if _same(store, folder) else _download(store, folder)


def _download(store: Store, folder: Path) -> Path:
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in store.files(_remote(store, folder)):
        store.fs.get_file(path, str(partial / path.rsplit("/", 1)[-1]))
    if folder.exists():  # it was trained here and may not be in the store yet: it is kept under another name
        mark = folder / POLICY_JSON
        named = text_hash(mark.read_text(encoding="utf-8"))[:12] if mark.is_file() else "unfinished"
        aside = folder.with_name(f"{folder.name}.replaced-{named}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    return partial.rename(folder)


def _same(store: Store, folder: Path) -> bool:
    mark, remote = folder / POLICY_JSON, f"{_remote(store, folder)}/{POLICY_JSON}"
    return mark.is_file() and store.fs.exists(remote) and mark.read_bytes() == store.read_bytes(remote)


def _remote(store: Store, folder: Path) -> str:
    root = local_root(store)
    if not folder.is_relative_to(root):
        raise StoreError(f"{folder} lies outside of {root}, the local copy of {store.root}")
    return "/".join((store.base, *folder.relative_to(root).parts))


# What decides a policy's outputs: weights, architecture, tokenizer. Logs and training manifests do not.
_CONTENT_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
_NOT_CONTENT = (POLICY_JSON, "_manifest.json", "training.json", "trainer_state.json", "diagnostics.json")


@dataclass(frozen=True)
class PolicyRef:
    """A policy ready to load: `path` is a Hugging Face folder on this machine."""

    policy_id: str
    path: str
    generation: int | None = None
    adapter: str | None = None
    """Folder of a LoRA adapter on top of it, whose hash is part of the id."""


@dataclass(frozen=True)
class ServedPolicy:
    """A policy behind an OpenAI-compatible server: nothing of it is loaded here."""

    policy_id: str
    url: str
    model: str
    named: tuple[str, ...] = ()
    """Servers that an experiment's YAML names. The user's API key is sent to these and to no other."""

    @property
    def path(self) -> str:
        """`URL#MODEL`."""
        return f"{self.url}#{self.model}"


Acting = PolicyRef | ServedPolicy
"""The policy that answers. How an engine runs it is said elsewhere: `pipeline.config.rollouts.EngineConfig`."""


def content_files(folder: Path) -> list[Path]:
    """What decides a policy's outputs. Raises TbrmError for a folder without weights."""
    files = sorted(p for p in folder.iterdir() if p.suffix in _CONTENT_SUFFIXES and p.name not in _NOT_CONTENT)
    if not any(p.suffix == ".safetensors" for p in files):
        raise TbrmError(f"{folder} has no .safetensors weights: it is not a policy folder")
    return files


def content_hash(folder: Path) -> str:
    """SHA-256 over names and bytes of the folder's weights, configuration and tokenizer files; 16 hex digits."""
    total = hashlib.sha256()
    for path in content_files(folder):
        with path.open("rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def write_policy_json(folder: str | Path, parents: Mapping[str, str]) -> str:
    """Write `policy.json`; returns the policy_id.

    It holds the policy_id (content hash), the parents (partition or policy -> hash), and which tokenizer the folder
    has, so that stages which need no model can compare it without loading one. Raises TbrmError without a tokenizer.
    """
    folder = Path(folder)
    policy_id = content_hash(folder)
    tokenizer = asdict(tokenizer_info(load_tokenizer(str(folder))))
    tree = {"policy_id": policy_id, "parents": dict(sorted(parents.items())), "tokenizer": tokenizer}
    (folder / POLICY_JSON).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    return policy_id


def read_policy_json(folder: str | Path) -> dict[str, Any]:
    """The `policy.json` of a folder. Raises TbrmError when there is none or it is damaged."""
    path = Path(folder) / POLICY_JSON
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TbrmError(f"{path} cannot be read ({error}): the folder is not a finished policy; restore it") from error


def policy_tokenizer(path: str) -> TokenizerInfo:
    """The tokenizer of the policy in folder `path`: as its `policy.json` notes it, else as it loads."""
    if (Path(path) / POLICY_JSON).is_file() and (noted := read_policy_json(path).get("tokenizer")):
        return _tokenizer(noted, f"{path}/{POLICY_JSON}")
    return tokenizer_info(load_tokenizer(path))


def published_tokenizer(store: Store, dataset: str, generation: int) -> TokenizerInfo | None:
    """The tokenizer of policy[`generation`] of an experiment, without its weights being fetched.

    None while nothing is published, and for a policy published before tokenizers were noted whose folder is not here.
    """
    path = pointer_path(store, dataset, generation)
    if not store.fs.exists(path):
        return None
    pointer = _read_pointer(store, path)
    if pointer["tokenizer"]:
        return _tokenizer(pointer["tokenizer"], path)
    folder = local_root(store) / pointer["folder"]
    return policy_tokenizer(str(folder)) if folder.is_dir() else None


def _tokenizer(noted: object, where: str) -> TokenizerInfo:
    try:
        return from_json(TokenizerInfo, noted)
    except ValueError as error:
        raise TbrmError(f"{where} is damaged (tokenizer: {error}): restore it") from error


def policy_folder(store: Store, dataset: str, policy_id: str) -> Path:
    """Hugging Face folder of a policy on this machine, named by its content, whether it is there or not."""
    return fetch(store, local_root(store) / dataset / POLICIES / policy_id)


def keep_policy(store: Store, dataset: str, folder: Path, without: Collection[str] = ()) -> Path:
    """Put the finished policy in `folder`, but the files `without`, where its content names it; returns that folder.

    Its files are hard links where the file system has them, else copies. A policy that is there already is left as it
    is; a damaged one is moved aside.
    """
    policy_id = str(read_policy_json(folder)["policy_id"])
    home = local_root(store) / dataset / POLICIES / policy_id
    if home.exists():
        if _is_whole(home, policy_id):
            return home
        home.rename(
            next(p for n in itertools.count() if not (p := home.with_name(f"{home.name}.damaged-{n}")).exists())
        )
    partial = home.with_name(f"{home.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name in without:
            continue
        try:
            os.link(path, partial / path.name)
        except OSError:
            shutil.copyfile(path, partial / path.name)
            with (partial / path.name).open("rb") as copied:
                os.fsync(copied.fileno())
    sync_folder(partial)
    partial.rename(home)
    sync_folder(home.parent)
    return home


def _is_whole(folder: Path, policy_id: str) -> bool:
    try:
        return read_policy_json(folder)["policy_id"] == policy_id == content_hash(folder)
    except TbrmError:
        return False


def trained_policy_folder(store: Store, dataset: str, generation: int) -> Path:
    """The record of trained_policy[`generation`] on this machine, whether it is there or not: its manifest, metrics and
    `policy.json`, which names the policy.

    An earlier version kept the weights in there too.
    """
    return fetch(store, local_root(store) / dataset / "trained_policy" / f"generation={generation:04d}")


def pointer_path(store: Store, dataset: str, generation: int) -> str:
    return store.join(dataset, "policy", f"generation={generation:04d}", POLICY_JSON)


def publish_policy(
    store: Store,
    dataset: str,
    generation: int,
    folder: str | Path,
    parents: Mapping[str, str],
    replace: bool = False,
    configuration: str | None = None,
) -> PolicyRef:
    """Make the finished policy in `folder` policy[`generation`] of an experiment. A second call changes nothing.

    `configuration`: the kept configuration that made it, where nothing else says so. Raises StoreError when another
    policy already has that generation, unless `replace`: the caller then knows that nothing was made from that policy.
    """
    policy_id: str = read_policy_json(folder)["policy_id"]
    path = pointer_path(store, dataset, generation)
    if store.fs.exists(path):
        there = _read_pointer(store, path)["policy_id"]
        if there == policy_id:
            return resolve_published(store, dataset, generation)
        if not replace:
            raise StoreError(
                f"{path} is policy {there} already, not {policy_id}: later generations were sampled from it"
            )
    folder = Path(folder).resolve()
    root = local_root(store).resolve()
    location = str(folder)
    if folder.is_relative_to(root):
        location = str(folder.relative_to(root))
        upload(store, local_root(store) / location)
    tree = {"policy_id": policy_id, "folder": location, "parents": dict(sorted(parents.items()))}
    if tokenizer := read_policy_json(folder).get("tokenizer"):
        tree["tokenizer"] = tokenizer
    if configuration:
        tree["configuration"] = configuration
    store.write_atomic(path, (json.dumps(tree, indent=1) + "\n").encode())
    return PolicyRef(policy_id, str(folder), generation)


def resolve_published(store: Store, dataset: str, generation: int) -> PolicyRef:
    """policy[`generation`] of an experiment. Raises StoreError when it is not published yet."""
    tree = published(store, dataset, generation)
    folder = published_folder(store, tree)
    if (folder / POLICY_JSON).is_file() and (there := read_policy_json(folder).get("policy_id")) != tree["policy_id"]:
        raise StoreError(
            f"{folder} holds policy {there}, and policy[{generation}] of {dataset} was published from it as "
            f"{tree['policy_id']}: restore that one. Where nothing was made from it yet, "
            f"`tbrm train --experiment {dataset} --generation {generation - 1}` publishes what is there"
        )
    return PolicyRef(tree["policy_id"], str(folder), generation)


def published_folder(store: Store, pointer: Mapping[str, Any]) -> Path:
    """Folder on this machine that the pointer of a published policy names."""
    folder = Path(pointer["folder"])  # absolute: a policy from outside of the store
    return folder if folder.is_absolute() else fetch(store, local_root(store) / folder)


def published(store: Store, dataset: str, generation: int) -> dict[str, Any]:
    """What is published as policy[`generation`]: policy_id, folder, parents; its tokenizer and the configuration that
    made it, where that is noted.

    Raises StoreError when nothing is published yet.
    """
    path = pointer_path(store, dataset, generation)
    if not store.fs.exists(path):
        there = store.files(store.join(dataset, "policy"))  # a fork does not have every number
        run = "`tbrm run {0}` publishes one after each generation, up to `generations` of its YAML"
        step = run if generation else "`tbrm base-policy --experiment {0}` makes it"
        newest = f"the newest is policy[{int(there[-1].rpartition('=')[2])}]" if there else "none is"
        raise StoreError(f"policy[{generation}] of {dataset} is not published yet, {newest}: {step.format(dataset)}")
    return _read_pointer(store, path)


def _read_pointer(store: Store, path: str) -> dict[str, Any]:
    try:
        tree = json.loads(store.read_bytes(path))
        noted = {name: tree.get(name) for name in ("tokenizer", "configuration")}
        return noted | {name: tree[name] for name in ("policy_id", "folder", "parents")}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} is damaged ({error!r}): restore it, or delete it and run the stage that publishes the policy again"
        ) from error


def resolve_policy(store: Store, experiment: Experiment, generation: int) -> PolicyRef:
    """policy[g] of `experiment`. Raises StoreError naming the stage to run first."""
    return resolve_published(store, experiment.name, generation)


def check_undamaged(policy: PolicyRef) -> None:
    """Raise TbrmError unless the folder of a published policy still is what its policy_id says.

    Reads all weights, as whoever loads them does right after; formats of weights carry no checksum of their own.
    """
    if policy.generation is None:
        return  # named by what is in it, or by a hub or a server
    expected, folder = policy.policy_id.partition("+")[0], Path(policy.path)
    if not folder.is_dir():
        raise TbrmError(f"{folder} is gone, where policy {expected} was published from; restore it")
    read_policy_json(folder)
    try:
        found = content_hash(folder)
    except TbrmError:
        found = "without weights"
    if found != expected:
        raise TbrmError(
            f"{folder} is damaged: its files are {found}, published was {expected}; restore it. Without a copy, the "
            "stage that made it makes it again (`tbrm train` with --replace, of the generation before)"
        )


def foreign_policy(named: PolicyFolder | BuiltModel | HubModel) -> PolicyRef:
    """A policy that is no generation of the experiment, in a folder of this machine: a hub model is downloaded first.

    Raises TbrmError when there is no such policy.
    """
    found = PolicyFolder(built_folder(named.name)) if isinstance(named, BuiltModel) else named
    return PolicyRef(foreign_id(found), str(local_folder(found)))


def foreign_id(named: PolicyFolder | BuiltModel | HubModel) -> str:
    """Identity of such a policy: the hash of its folder's content, or the commit of the hub's repository."""
    if isinstance(named, HubModel):
        return f"{named.repository}@{commit_of(named)}"
    if isinstance(named, BuiltModel):
        return content_hash(built_folder(named.name))
    if not named.path.is_dir():
        raise TbrmError(f"there is no folder {named.path}: correct the path, or give a hub id such as org/name")
    return content_hash(named.path)
