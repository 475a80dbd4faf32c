"""Checks of disks, networks and other processes. Each may take its time, and runs beside the others."""

import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from assets.app.access import HOST, check_port
from assets.doctor import machine
from assets.doctor.findings import Row
from evals.benchmarks.registry import SUITES, find_benchmark, load_problems_of
from evals.benchmarks.types import Benchmark, ProblemSource
from pipeline.config import Experiment
from pipeline.errors import TbrmError
from pipeline.policies.facts import ModelFacts, model_facts
from pipeline.policies.hub import HubSilent, look_up
from pipeline.policies.refs import local_root, published
from pipeline.run.requirements import check_models
from pipeline.sandbox import Protections, protections_here
from pipeline.store import Store

_CONNECT_S = 1.0
_FOLDER_REMEDY = "or set `evaluation.source` to a folder with one JSONL file a benchmark"


def published_generations(store: Store, experiment: Experiment) -> int:
    """How many policies of the experiment are published."""
    return len(store.files(store.join(experiment.name, "policy")))


def policy_facts(store: Store, experiment: Experiment) -> ModelFacts:
    """Facts of the newest policy whose folder is here, else of `policy.base`. Raises TbrmError, HubSilent."""
    newest = published_generations(store, experiment) - 1
    if newest >= 0:
        folder = local_root(store) / published(store, experiment.name, newest)["folder"]
        if folder.is_dir():
            return model_facts(str(folder))
    return model_facts(experiment.policy.base, experiment.policy.revision)


def check_store(store: Store) -> list[Row]:
    """Whether the store can be written; tried by writing where its folder or bucket exists."""
    if store.is_local and not Path(store.base).is_dir():
        there = machine.existing(Path(store.base))
        try:
            tempfile.TemporaryDirectory(dir=there).cleanup()
        except OSError as error:
            step = f"make {store.base} for this user, or name another place with --root or TBRM_ROOT"
            return [Row("store", "stop", f"{store.base} is not there, and cannot be made: {error}", step)]
        return [Row("store", "ok", f"{store.base} will be made")]
    probe = store.join(f"_doctor-{uuid.uuid4().hex[:12]}")
    try:
        store.write_atomic(probe, b"tbrm doctor")
        same = store.read_bytes(probe) == b"tbrm doctor"
        store.fs.rm_file(probe)
    except (OSError, TbrmError) as error:
        step = "correct that, or name another place with --root or TBRM_ROOT"
        return [Row("store", "stop", f"{store.root} cannot be written: {error}", step)]
    if not same:
        return [Row("store", "stop", f"{store.root} does not give back what was written", "use another place (--root)")]
    return [Row("store", "ok", f"{store.root} can be written")]


def check_sandbox(try_out: Callable[[], Protections] = protections_here) -> list[Row]:
    """What confines the verifiers on this machine."""
    try:
        found = try_out()
    except TbrmError as error:
        return [Row("sandbox", "stop", str(error), "verifiers grade in such a process: change what it says")]
    gaps = found.missing()
    if gaps:
        step = "docs/security.md says what each layer needs of the kernel; a container may need another seccomp profile"
        return [Row("sandbox", "warning", f"a verifier could {', '.join(gaps)}. {found.describe()}", step)]
    return [Row("sandbox", "ok", found.describe())]


def check_benchmarks(experiment: Experiment) -> list[Row]:
    """Whether the problems of every benchmark can be loaded."""
    evaluation = experiment.evaluation
    if evaluation is None:
        return []
    source = ProblemSource(evaluation.source, experiment)
    wanted = [part for name in evaluation.benchmarks for part in SUITES.get(name, (name,))]
    named = {name: protocol.benchmark or name for name, protocol in evaluation.protocols.items()}
    bad: list[str] = []
    for name in dict.fromkeys(named.get(name, name) for name in wanted):
        try:
            _reach(find_benchmark(name, source.folder), source)
        except HubSilent as error:
            step = f"let this machine reach the hub, {_FOLDER_REMEDY}"
            return [Row("benchmarks", "stop", f"{name}: {error}", step)]
        except TbrmError as error:
            bad.append(str(error))
    if bad:
        return [Row("benchmarks", "stop", "; ".join(bad), f"correct `evaluation.benchmarks`, {_FOLDER_REMEDY}")]
    return [Row("benchmarks", "ok", f"{', '.join(wanted)}: within reach")]


def _reach(benchmark: Benchmark, source: ProblemSource) -> None:
    if benchmark.hub is not None and source.folder is None:
        look_up("dataset", benchmark.hub.id, benchmark.hub.revision)
    elif benchmark.hub is not None:
        load_problems_of(benchmark, source)


def check_prompts(experiment: Experiment) -> list[Row]:
    """Whether the prompt set is there."""
    prompts = experiment.prompts
    if prompts.source == "file" and not Path(str(prompts.path)).is_file():
        step = "correct `prompts.path`; it is relative to the working directory"
        return [Row("prompts", "stop", f"prompt file {prompts.path} does not exist", step)]
    if prompts.source == "hf" and not Path(str(prompts.path)).is_dir():
        try:
            look_up("dataset", str(prompts.path), prompts.revision)
        except TbrmError as error:
            return [Row("prompts", "stop", str(error), "let this machine reach the hub, or use a file or saved folder")]
    return [Row("prompts", "ok", f"{prompts.source} {prompts.path or ''}".strip())]


def check_other_models(experiment: Experiment) -> list[Row]:
    """Whether the reference and the teacher are there, where they are models of their own."""
    try:
        silent = check_models(experiment, base=False)
    except TbrmError as error:
        return [Row("models", "stop", str(error), "correct the field")]
    return [Row("models", "stop", text, "let this machine reach the hub, or name a folder") for text in silent]


def check_logged(store: Store, experiment: Experiment) -> list[Row]:
    """Whether the logged data sets that are trained on are in the store."""
    warm = experiment.policy.warm_start
    written = {warm.logged} if warm and warm.trajectories else set[str]()
    wanted = {source.name for source in experiment.replay.logged} | ({warm.logged} if warm else set[str]())
    absent = [name for name in sorted(wanted - written) if not store.generations(f"logged/{name}", "rollouts")]
    if absent:
        found = f"{store.root} has no logged data set {', '.join(absent)}"
        return [Row("logged data", "stop", found, f"`tbrm import --name {absent[0]} …` first")]
    return [Row("logged data", "ok", ", ".join(sorted(wanted)))] if wanted else []


def check_servers(experiment: Experiment) -> list[Row]:
    """Whether somebody listens where the experiment names servers."""
    behaviour = experiment.rollouts.policy if experiment.rollouts and experiment.rollouts.endpoint else None
    rows: list[Row] = []
    for address in experiment.named_servers:
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((str(parts.hostname), port), timeout=_CONNECT_S).close()
        except OSError as error:
            state = "stop" if address == behaviour else "warning"
            found = f"nobody answers at {parts.hostname}:{port} ({error})"
            rows.append(Row("servers", state, found, "start the server, or correct the address"))
        else:
            rows.append(Row("servers", "ok", f"{parts.hostname}:{port} answers"))
    return rows


def check_ports(port: int) -> list[Row]:
    """Whether the UI finds its port free."""
    try:
        check_port(port)
    except TbrmError as error:
        return [Row("ports", "warning", str(error), f"`tbrm ui --port {port + 1}`")]
    return [Row("ports", "ok", f"{HOST}:{port} is free for the UI")]


def check_postgres(environment: Mapping[str, str]) -> list[Row]:
    """Whether Dagster's database answers, where it is a server."""
    url = environment.get("TBRM_POSTGRES_URL")
    if not url:
        return []
    parts = urlsplit(url)
    try:
        where = (str(parts.hostname), parts.port or 5432)
        socket.create_connection(where, timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        step = "start the server, correct TBRM_POSTGRES_URL, or unset it for SQLite"
        return [Row("postgres", "stop", f"TBRM_POSTGRES_URL: nobody answers ({error})", step)]
    if machine.version_of("dagster-postgres") is None:
        return [Row("postgres", "stop", "dagster-postgres is not installed", "`pip install 'tbrm[postgres]'`")]
    return [Row("postgres", "ok", f"{where[0]}:{where[1]} answers")]


def independent_checks(
    experiment: Experiment | None, store: Store, port: int, environment: Mapping[str, str]
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """(name of its row, check) of every check that needs no result of another."""
    yield "store", partial(check_store, store)
    yield "sandbox", check_sandbox
    yield "ports", partial(check_ports, port)
    yield "postgres", partial(check_postgres, environment)
    if experiment is not None:
        yield "models", partial(check_other_models, experiment)
        yield "prompts", partial(check_prompts, experiment)
        yield "logged data", partial(check_logged, store, experiment)
        yield "benchmarks", partial(check_benchmarks, experiment)
        yield "servers", partial(check_servers, experiment)
