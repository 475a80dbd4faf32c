"""`tbrm lineage`."""

import json
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import json_option, store_options
from pipeline.store import Store
from pipeline.terminal.text import visible

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

    from pipeline.browse.lineage import Node


@click.command()
@click.argument("policy_or_score")
@store_options
@json_option
def lineage(policy_or_score: str, store: Store, as_json: bool) -> None:
    """Walk from a score or policy back to its training data, shards and behaviour policies.

    POLICY_OR_SCORE is EXPERIMENT:GENERATION (its scores where there are any, else the policy), a policy_id, a policy
    folder, or a partition such as arith_tiny/rollouts/generation=0001.
    """
    from rich.tree import Tree

    from pipeline.browse.lineage import trace
    from pipeline.terminal.console import PlainConsole

    found = trace(store, policy_or_score)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
        return
    tree = Tree(_label(found))
    _grow(tree, found)
    PlainConsole().print(tree)


def _grow(tree: "Tree", node: "Node") -> None:
    for parent in node.parents:
        _grow(tree.add(_label(parent)), parent)


def _label(node: "Node") -> "Text":
    from rich.text import Text

    label = Text(visible(node.name), style="bold")
    if node.repeated:
        return label.append(" (as above)", style="not bold")
    for key, value in node.facts.items():
        label.append(f"\n  {visible(key)}", style="not bold dim").append(f" {visible(value)}", style="not bold")
    return label
