"""Expressions in answers, read by a grammar: what stands outside of it is refused, and nothing is run as code.

Python's parser makes a tree of the text and runs none of it. The tree is then built node by node, and a node that is
not named here ends the reading. `sympy.parse_expr` is no substitute: it evaluates text as Python.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

LONGEST = 4_000
"""Characters of an expression. The longest answer that reasoning-gym generates has some 600."""
LARGEST_BITS = 20_000
"""Bits of a power of numbers, and of a shifted number: about 6,000 digits."""
LARGEST_EXPONENT = 1_000
"""Exponent of something that is not a number."""
_PARSER_GIVES_UP = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What `ast.parse` raises on text that is no expression, nests too deeply, or holds a number of thousands of digits."""


class OutsideOfGrammar(ValueError):
    """The text is not an expression of the grammar."""


def tree_of(text: str) -> ast.expr:
    """The text as a tree; nothing is run. Raises OutsideOfGrammar."""
    if len(text) > LONGEST:
        raise OutsideOfGrammar(f"more than {LONGEST} characters")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except _PARSER_GIVES_UP as error:
        raise OutsideOfGrammar(str(error)) from error


def literal(text: str) -> Any:
    """A Python literal: numbers, strings, and lists, tuples, sets and dicts of them. Raises OutsideOfGrammar."""
    try:
        return ast.literal_eval(tree_of(text))
    except (TypeError, *_PARSER_GIVES_UP) as error:
        raise OutsideOfGrammar(str(error)) from error


def integer(text: str) -> int:
    """The value of an expression of integers with + - * << >>. Raises OutsideOfGrammar."""
    try:
        return _integer(tree_of(text))
    except RecursionError as error:
        raise OutsideOfGrammar("nested too deeply") from error


_OF_INTEGERS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
}


def _integer(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_integer(inner)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OF_INTEGERS:
            a, b = _integer(left), _integer(right)
            if isinstance(op, ast.LShift | ast.RShift) and not 0 <= b <= LARGEST_BITS:
                raise OutsideOfGrammar("a shift by too much")
            if a.bit_length() + b.bit_length() > LARGEST_BITS:
                raise OutsideOfGrammar("a number with too many digits")
            return _OF_INTEGERS[type(op)](a, b)
        case _:
            raise OutsideOfGrammar(f"{type(node).__name__} is not part of an expression of integers")


FUNCTIONS = frozenset(
    """
    Abs Chi Ci E1 Ei Shi Si acos acosh acot acoth acsc acsch asec asech asin asinh atan atanh besselj bessely cbrt cos
    cosh cot coth csc csch erf erfc erfi exp expint fresnelc fresnels gamma li ln log lowergamma
    polylog root sec sech sign sin sinh sqrt tan tanh uppergamma
    """.split()  # noqa: SIM905 - a table of names
)
"""Functions of sympy that an expression may call, each with values of this grammar only."""
_CONSTANTS = ("E", "I", "pi", "oo")


def symbolic(text: str, names: Mapping[str, Any] | None = None) -> Any:
    """A sympy expression of numbers, names, + - * / ** and `FUNCTIONS`, as `sympy.parse_expr` would build it.

    `names` maps names of the text to sympy objects; further names become symbols. Raises OutsideOfGrammar.
    """
    try:
        return _symbolic(tree_of(text), names or {})
    except RecursionError as error:
        raise OutsideOfGrammar("nested too deeply") from error


def _symbolic(node: ast.expr, names: Mapping[str, Any]) -> Any:
    import sympy

    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return sympy.Integer(value)
        case ast.Constant(value=float() as value):
            return sympy.Float(repr(value))
        case ast.Name(id=name):
            if name in names:
                return names[name]
            return getattr(sympy, name) if name in _CONSTANTS else sympy.Symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_symbolic(inner, names)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _symbolic(inner, names)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS and name not in names:
            return getattr(sympy, name)(*(_symbolic(argument, names) for argument in arguments))
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(op, _symbolic(left, names), _symbolic(right, names))
        case _:
            raise OutsideOfGrammar(f"{type(node).__name__} is not part of an expression")


def _combined(op: ast.operator, left: Any, right: Any) -> Any:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.Div():
            return left / right
        case ast.Pow():
            _refuse_huge_power(left, right)
            return left**right
        case _:
            raise OutsideOfGrammar(f"{type(op).__name__} is not part of an expression")


def _refuse_huge_power(base: Any, exponent: Any) -> None:
    """9**9**9 has 370 million digits, and sympy would write them all."""
    if not exponent.is_number:
        return
    size = abs(float(exponent.evalf(15))) if exponent.is_real else float("inf")
    bits = max(base.p.bit_length(), base.q.bit_length()) if base.is_Rational else 0
    if not (size <= LARGEST_EXPONENT or base in (0, 1, -1)) or bits * size > LARGEST_BITS:
        raise OutsideOfGrammar("a power with too many digits")
