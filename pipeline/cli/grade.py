"""`tbrm grade`: the verifiers as a tool to pipe into."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from pipeline.cli.options import Finite, json_option, no_root_option, print_json
from pipeline.errors import ConfigError, TbrmError

_FIELDS = {"response": str, "answer": str}


@click.command()
@click.argument("file", type=click.File("r", encoding="utf-8", errors="surrogateescape"), default="-")
@click.option("--verifier", help="Verifier of rows that name none. Default: math_verify.")
@click.option(
    "--allow",
    multiple=True,
    metavar="VERIFIER",
    help="Verifier that rows may name, or your own function as MODULE:FUNCTION. Repeatable.",
)
@click.option("--task", "tasks", multiple=True, help="Task of reasoning-gym that rows may name. Repeatable.")
@click.option("--experiment", "-e", "name", help="Take verifier, limits and weights from this experiment.")
@click.option("--cpu-s", type=Finite(), help="Processor seconds for one response.")
@click.option("--timeout-s", type=Finite(), help="Wall-clock seconds for one response.")
@click.option("--memory-mb", type=int, help="Address space for one response, MiB.")
@click.option("--workers", type=int, help="Verifier processes. 0: one for each core.")
@no_root_option
@json_option
def grade(
    file: Iterable[str],
    name: str | None,
    verifier: str | None,
    allow: Sequence[str],
    tasks: Sequence[str],
    as_json: bool,
    **limits: float | int | None,
) -> None:
    """Grade JSONL rows {"response", "answer", "verifier"?, "extra"?} from FILE or standard input.

    Every row comes back in order, with reward, status, extracted_answer and detail: a line each as it is graded, with
    --json one list at the end. A row may name only a verifier or task that --verifier, --allow, --task or the
    experiment names.
    """
    from pydantic import ValidationError

    from pipeline.config import load_experiment
    from pipeline.config.experiment import declared_rewards
    from pipeline.config.rewards import BUILTIN_VERIFIERS, RewardsConfig
    from pipeline.rewards.grader import Grader

    base = declared_rewards(load_experiment(name)) if name else RewardsConfig()
    chosen: dict[str, Any] = {key: value for key, value in limits.items() if value is not None}
    chosen |= {"verifier": verifier} if verifier else {}
    functions = [allowed for allowed in allow if allowed not in BUILTIN_VERIFIERS]
    chosen |= {"user_verifiers": (*base.user_verifiers, *functions)}
    chosen |= {"row_verifiers": (*base.row_verifiers, *(name for name in allow if name not in functions))}
    chosen |= {"reasoning_gym_tasks": (*base.reasoning_gym_tasks, *tasks)}
    try:
        config = RewardsConfig.model_validate({**base.model_dump(), **chosen})
    except ValidationError as error:
        raise ConfigError("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from error
    rows: deque[dict[str, Any]] = deque()  # read, not graded yet: the Grader reads ahead by a bounded number
    graded: list[dict[str, Any]] = []
    with Grader(config) as grader:
        for label in grader.grade(_items(file, getattr(file, "name", "input"), rows)):
            result = {
                "reward": label.reward,
                "status": label.status,
                "extracted_answer": label.extracted_answer,
                "detail": label.detail,
            }
            row = rows.popleft() | result
            graded.append(row) if as_json else click.echo(json.dumps(row))
    if as_json:
        print_json(graded)


def _items(lines: Iterable[str], where: str, rows: deque[dict[str, Any]]) -> Iterator[Any]:
    from pipeline.rewards.types import GradeItem

    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TbrmError(f"{where} line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise TbrmError(f"{where} line {number} must be an object with `response` and `answer`")
        for field, kind in _FIELDS.items():
            if not isinstance(row.get(field), kind):
                raise TbrmError(f"{where} line {number}: field `{field}` must be a string")
        if not isinstance(row.get("extra", {}), dict):
            raise TbrmError(f"{where} line {number}: field `extra` must be an object")
        rows.append(row)
        yield GradeItem(row["response"], row["answer"], row.get("verifier") or None, row.get("extra") or {})
