"""docs/architecture.md shows the rooms as they are, and names files that are there; no imports run in a circle."""

import re
from pathlib import Path

import grimp
import networkx

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "architecture.md"
FLOORS = ("pipeline", "trainer", "evals", "assets")


def drawing() -> str:
    """What scripts/draw-architecture draws, run in this process."""
    names: dict[str, object] = {"__name__": "drawing", "__file__": str(ROOT / "scripts" / "draw-architecture")}
    exec(compile((ROOT / "scripts" / "draw-architecture").read_text(), "draw-architecture", "exec"), names)
    page_with, draw = names["page_with"], names["drawing"]
    assert callable(page_with)
    assert callable(draw)
    return page_with(draw())


def test_the_drawing_is_that_of_the_imports() -> None:
    assert PAGE.read_text() == drawing(), "the imports of rooms have changed: run scripts/draw-architecture"


def test_the_page_names_what_is_there() -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"`((?:pipeline|trainer|evals|assets|scripts)/[\w./-]*)`", text))
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_no_imports_run_in_a_circle() -> None:
    imports = grimp.build_graph(*FLOORS, cache_dir=None)
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    for module in imports.modules:
        graph.add_edges_from((module, below) for below in imports.find_modules_directly_imported_by(module))
    assert [sorted(circle) for circle in networkx.strongly_connected_components(graph) if len(circle) > 1] == []
