"""From a YAML file and `--set` overrides to a checked experiment."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.base import model_in
from pipeline.config.experiment import Experiment
from pipeline.errors import ConfigError, did_you_mean

MAX_YAML_BYTES = 1_000_000
_MAX_DEPTH = 64
_MAX_NUMBER = 100
_MAX_TOLD = 20
# ValueError: bytes that are not UTF-8, or a number of thousands of digits.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


class _Loader(yaml.SafeLoader):
    """Safe YAML in linear time: without what can expand (aliases), repeat (keys) or take the square of its length.

    Keys are text: numbers can be chosen to fall into one place of a hash table.
    """

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases (*name) are not used in experiments{self.peek_event().start_mark}")
        if self._depth >= _MAX_DEPTH:
            raise yaml.YAMLError(f"more than {_MAX_DEPTH} levels of nesting{self.peek_event().start_mark}")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        found: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(f"key {key!r:.200} is no text: put it in quotes{key_node.start_mark}")
            if key in found:
                raise yaml.YAMLError(f"key {key!r:.200} stands twice{key_node.start_mark}")
            found.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: Any) -> int | float:
        if ":" in node.value:
            raise yaml.YAMLError(f"{node.value[:40]!r} would be a number of base 60: put it in quotes{node.start_mark}")
        if len(node.value) > _MAX_NUMBER:
            raise yaml.YAMLError(f"a number of {len(node.value):,} digits{node.start_mark}")
        is_float = node.tag == "tag:yaml.org,2002:float"
        return self.construct_yaml_float(node) if is_float else self.construct_yaml_int(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


DEFAULTS = Path(__file__).parents[1] / "defaults"
"""What a checkout has at its top and an installed package carries: `experiments/` and `dagster.yaml`."""


def experiments_folder() -> Path:
    """`experiments/` of the working directory, or those that come with the package."""
    here = Path("experiments")
    return here if here.is_dir() else (DEFAULTS / "experiments").resolve()


def find_experiment(name_or_path: str) -> Path:
    """The YAML file meant by a name (`arith_tiny`) or a path. Raises ConfigError naming what there is."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = experiments_folder() / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in experiments_folder().glob("*.yaml"))
        near = did_you_mean(path.stem, known)
        raise ConfigError(
            f"no experiment at {path}.{near} Known experiments: {', '.join(known) or 'none'}. "
            "Give one of these or the path of a YAML file."
        )
    return path


def load_experiment(name_or_path: str, overrides: Sequence[str] = ()) -> Experiment:
    """Read, override and check an experiment.

    `name_or_path` may also be the address of a configuration that a store keeps (`s3://…`). `overrides` are
    `path.to.field=value`, the value written as in YAML. Raises ConfigError with the path of each wrong field and the
    reason.
    """
    if "://" in name_or_path:
        origin, tree = name_or_path, parse_yaml(_fetched(name_or_path), name_or_path)
    else:
        path = find_experiment(name_or_path)
        origin, tree = str(path), read_yaml(path)
    for override in overrides:
        _override(tree, override)
    return build_experiment(tree, origin)


def changed_experiment(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """A checked experiment with `overrides`, checked as a whole again. Raises ConfigError like `load_experiment`."""
    tree = experiment.model_dump(mode="json")
    for override in overrides:
        _override(tree, override)
    return build_experiment(tree, f"{experiment.name} with {', '.join(overrides)}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file of bounded size. Raises ConfigError."""
    if path.stat().st_size > MAX_YAML_BYTES:
        raise _too_large(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, origin: str) -> dict[str, Any]:
    """A YAML mapping. Raises ConfigError naming `origin`."""
    try:
        tree = yaml.load(text, _Loader)
    except _NOT_YAML as error:
        raise ConfigError(f"{origin} is not readable YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{origin} must hold a mapping of fields, not {type(tree).__name__}")
    return tree


def _fetched(address: str) -> str:
    """The text at an address of an object store, of bounded size. Raises ConfigError."""
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(address)
        if fs.size(path) > MAX_YAML_BYTES:
            raise _too_large(address)
        return fs.cat_file(path).decode()
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"no experiment can be read from {address}: {error}") from error


def _too_large(origin: str) -> ConfigError:
    return ConfigError(f"{origin} is larger than {MAX_YAML_BYTES:,} bytes: not an experiment")


def build_experiment(tree: Mapping[str, Any], origin: str) -> Experiment:
    """Check a tree of plain values. Raises ConfigError listing every wrong field of `origin`."""
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        lines = [f"  {_where(e['loc'])}: {_reason(e)}" for e in wrong[:_MAX_TOLD]]
        lines += [f"  and {len(wrong) - _MAX_TOLD:,} more"] if len(wrong) > _MAX_TOLD else []
        raise ConfigError(f"{origin} is not a valid experiment:\n" + "\n".join(lines)) from error


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "experiment"


def _reason(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        *above, name = error["loc"]
        return f"unknown field.{did_you_mean(str(name), _fields_of(above))} `tbrm config explain` lists the known ones"
    if error["type"] == "missing":
        return "is required"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        message = f"{message}.{did_you_mean(str(error['input']), choices)}"
    return f"{message} (got {error['input']!r:.200})" if error["loc"] else message


def _fields_of(location: Sequence[int | str]) -> list[str]:
    """Names of the fields of the part at `location`."""
    part: Any = Experiment
    for key in location:
        part = part.model_fields[key].annotation if key in getattr(part, "model_fields", {}) else part
        part = model_in(part)[0] or part
    return list(getattr(part, "model_fields", {}))


def _override(tree: dict[str, Any], override: str) -> None:
    path, sep, text = override.partition("=")
    keys = path.strip().split(".")
    if not sep or not all(keys):
        raise ConfigError(f"--set {override!r}: write it as path.to.field=value")
    try:
        value = yaml.load(text, _Loader)
    except _NOT_YAML as error:
        raise ConfigError(f"--set {override!r:.200}: the value is not YAML: {error}") from error
    node: Any = tree
    for key in keys[:-1]:
        if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
            continue
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: `{key}` lies inside a plain value")
        if not isinstance(node.get(key), dict | list):
            node[key] = {}
        node = node[key]
    if not isinstance(node, dict):
        raise ConfigError(f"--set {override!r}: `{keys[-1]}` lies inside a plain value")
    node[keys[-1]] = value
