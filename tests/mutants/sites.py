"""Where a small defect can be planted: one changed comparison, operator, boolean or number of the product's code.

Strings stay as they are: most are names that any run of the line meets, or words for people.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOMS = ("pipeline", "trainer", "evals", "assets")

SWAPS: dict[type[ast.AST], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "/", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&", ast.And: "or", ast.Or: "and",
}  # fmt: skip

# Words for people, and guards that change nothing while the code around them is right.
SKIPPED_KEYWORDS = frozenset({"help", "description", "show_default", "frozen", "slots", "strict"})
SAYS = re.compile(r"(Error|Exception|Warning|echo|print|log|info|warning|error)$")


# The statement, the function around it, the expression that changes, what it becomes, and the kind of change.
Change = tuple[ast.stmt, str, ast.expr, str, str]


@dataclass(frozen=True)
class Site:
    """One possible defect. `place` (file, function, the line's text and the change) holds when lines above it move."""

    file: str
    line: int
    start: int  # bytes of the file that `new` replaces
    end: int
    new: str
    kind: str
    first_line: int  # of the statement: a test that runs none of its lines cannot find the defect
    last_line: int
    place: str


def defect_sites(tree: Path) -> list[Site]:
    """All of them under `tree`, in a fixed order."""
    files = sorted(path for room in ROOMS for path in (tree / room).rglob("*.py"))
    return [site for path in files for site in sites_of(path.read_bytes(), path.relative_to(tree).as_posix())]


def planted(source: bytes, site: Site) -> bytes:
    return source[: site.start] + site.new.encode() + source[site.end :]


def sites_of(source: bytes, file: str) -> list[Site]:
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    seen: dict[str, int] = {}
    sites: list[Site] = []
    for statement, function, node, new, kind in _changes(ast.parse(source)):
        start, end = _span(node, source, starts)
        text = lines[node.lineno - 1].decode().strip()
        place = f"{file} {function}: {text}  [{source[start:end].decode()} → {new}]"
        seen[place] = seen.get(place, 0) + 1
        place += f" #{seen[place]}" if seen[place] > 1 else ""
        first, last = statement.lineno, statement.end_lineno or statement.lineno
        if isinstance(statement, ast.If | ast.While | ast.For | ast.With | ast.FunctionDef | ast.ClassDef):
            last = node.end_lineno or node.lineno  # its head, not its body
        line = source.count(b"\n", 0, start) + 1
        site = Site(file, line, start, end, new, kind, first, last, place)
        try:
            ast.parse(planted(source, site))
        except SyntaxError:
            continue
        sites.append(site)
    return sites


def _changes(module: ast.Module) -> Iterator[Change]:
    for statement in module.body:
        yield from _in_statement(statement, "")


def _in_statement(statement: ast.stmt, function: str) -> Iterator[Change]:
    if isinstance(statement, ast.Raise | ast.Import | ast.ImportFrom | ast.Assert):
        return
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):  # a docstring
        return
    if isinstance(statement, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in statement.targets):
        return
    name = function
    if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
        name = f"{function}.{statement.name}".lstrip(".")
    for field, value in ast.iter_fields(statement):
        if field in ("annotation", "returns", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.stmt):
                yield from _in_statement(child, name)
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                for inner in child.body:
                    yield from _in_statement(inner, name)
                if isinstance(child, ast.match_case) and child.guard:
                    yield from _in_expression(child.guard, statement, name)
            elif isinstance(child, ast.arguments):
                for default in [*child.defaults, *(d for d in child.kw_defaults if d)]:
                    yield from _in_expression(default, statement, name)
            elif isinstance(child, ast.withitem):
                yield from _in_expression(child.context_expr, statement, name)
            elif isinstance(child, ast.keyword):
                yield from _in_expression(child.value, statement, name)
            elif isinstance(child, ast.expr):
                yield from _in_expression(child, statement, name)


def _in_expression(node: ast.expr, statement: ast.stmt, function: str) -> Iterator[Change]:
    match node:
        case ast.Compare(ops=[op]) if _is_main(node):
            return
        case ast.Compare(ops=[op, *_]):
            yield statement, function, node, SWAPS[type(op)], "comparison"
        case ast.BinOp(op=op) if type(op) in SWAPS and not _of_types(node):
            yield statement, function, node, SWAPS[type(op)], "operator"
        case ast.BoolOp(op=op):
            yield statement, function, node, SWAPS[type(op)], "operator"
        case ast.UnaryOp(op=ast.Not()):
            yield statement, function, node, "", "operator"
        case ast.Constant(value=value):
            new = _other(value)
            if new is not None:
                yield statement, function, node, new, "boolean" if isinstance(value, bool) else "constant"
        case _:
            pass
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.keyword):
                if child.arg not in SKIPPED_KEYWORDS:
                    yield from _in_expression(child.value, statement, function)
            elif isinstance(child, ast.comprehension):
                for part in (child.iter, *child.ifs):
                    yield from _in_expression(part, statement, function)
            elif not isinstance(child, ast.expr) or _names_a_type(node, field):
                continue
            elif isinstance(node, ast.JoinedStr):
                if isinstance(child, ast.FormattedValue):
                    yield from _in_expression(child.value, statement, function)
            elif isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if field == "args" and (SAYS.search(called) or called in ("cast", "TypeVar", "Literal")):
                    continue
                yield from _in_expression(child, statement, function)
            else:
                yield from _in_expression(child, statement, function)


def _names_a_type(node: ast.expr, field: str) -> bool:
    return (
        isinstance(node, ast.Subscript)
        and field == "slice"
        and getattr(node.value, "id", "") in {"Literal", "Annotated", "Callable", "list", "dict", "tuple", "type"}
    )


def _of_types(node: ast.BinOp) -> bool:
    """`int | None` where it is a value (an alias, isinstance) and not a union of sets."""
    return isinstance(node.op, ast.BitOr) and (_is_type(node.left) or _is_type(node.right))


def _is_type(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=None):
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(value=ast.Name(id=name)):
            return name[0].isupper() or name in {"int", "str", "float", "bool", "dict", "list", "tuple", "type"}
        case _:
            return False


def _is_main(node: ast.Compare) -> bool:
    return isinstance(node.left, ast.Name) and node.left.id in ("__name__", "TYPE_CHECKING")


def _other(value: object) -> str | None:
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, float):
        return repr(value * 2 if value else 1.0)
    return None


def _span(node: ast.expr, source: bytes, starts: list[int]) -> tuple[int, int]:
    """The bytes to replace: the constant itself, or the operator between its two operands."""

    def at(line: int | None, column: int | None) -> int:
        assert line is not None
        assert column is not None
        return starts[line - 1] + column

    match node:
        case ast.Compare(left=left, comparators=[right, *_]) | ast.BinOp(left=left, right=right):
            pass
        case ast.BoolOp(values=[left, right, *_]):
            pass
        case ast.UnaryOp():
            start = at(node.lineno, node.col_offset)
            return start, start + len("not")
        case _:
            return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
    low, high = at(left.end_lineno, left.end_col_offset), at(right.lineno, right.col_offset)
    found = re.search(rb"not\s+in|is\s+not|[<>!=]=|//|\*\*|[-+*/%<>&|]|\b(?:in|is|and|or)\b", source[low:high])
    assert found, source[low:high]
    return low + found.start(), low + found.end()
