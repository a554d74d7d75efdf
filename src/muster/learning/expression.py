# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Small safe expressions over observation terms, as `0.5 * speed - (min(scan) < 0.3)`.

The text is parsed into Python's syntax tree, and only a few kinds of nodes, functions and the names
of terms are compiled, into plain closures over floats: nothing is evaluated by Python itself. Length,
depth and size are bounded, so that compiling and evaluating take bounded time.
"""
from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
import difflib
import math
import operator
from typing import Any

MAXIMUM_LENGTH = 500
MAXIMUM_NODES = 200
MAXIMUM_DEPTH = 50

type Values = Sequence[float]
#: From an observation and the one before to a number, or a list of numbers.
type Function = Callable[[Values, Values], Any]

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: operator.mod, ast.Pow: math.pow, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne}
#: Functions of numbers → how many they take.
_SCALAR: dict[str, tuple[Callable[..., float], int]] = {
    'abs': (abs, 1), 'sqrt': (math.sqrt, 1), 'exp': (math.exp, 1), 'log': (math.log, 1),
    'sin': (math.sin, 1), 'cos': (math.cos, 1), 'tan': (math.tan, 1), 'tanh': (math.tanh, 1),
    'atan2': (math.atan2, 2), 'hypot': (math.hypot, 2),
    'sign': (lambda x: (x > 0.0) - (x < 0.0), 1), 'clip': (lambda x, low, high: min(max(x, low), high), 3)}
#: Functions of all values of a term; min and max take several numbers too.
_VECTOR: dict[str, Callable[[Values], float]] = {
    'min': min, 'max': max, 'sum': sum, 'mean': lambda v: sum(v) / len(v), 'norm': lambda v: math.hypot(*v)}
_CONSTANTS = {'pi': math.pi}
#: Every name that an expression gives a meaning to, so that no term may have it.
RESERVED = frozenset({*_SCALAR, *_VECTOR, *_CONSTANTS, 'previous', 'and', 'or', 'not', 'if', 'else'})


class ExpressionError(Exception):
    """An expression that is refused; the message names the column and what is allowed instead."""


class Expression:
    """A compiled expression: call it with the values of an observation and of the one before."""

    def __init__(self, text: str, places: Mapping[str, slice]) -> None:
        """
        Compile `text`; `places[name]` says where the values of a term stand in the observation.

        Raises ExpressionError.
        """
        self.text = text
        self._function = _compile(text, places)

    def __call__(self, values: Values, previous: Values) -> float:
        """Return its value, 1.0 for true, 0.0 for false, NaN where it has none (as a division by 0)."""
        try:
            return float(self._function(values, previous))
        except (ArithmeticError, ValueError):
            return math.nan


def _compile(text: str, places: Mapping[str, slice]) -> Function:
    if len(text) > MAXIMUM_LENGTH:
        raise ExpressionError(f'an expression has at most {MAXIMUM_LENGTH} characters, not {len(text)}')
    for column, character in enumerate(text, 1):
        if not ' ' <= character <= '~':
            raise ExpressionError(f'column {column}: {character!r} cannot be part of an expression')
    try:
        tree = ast.parse(text, mode='eval').body
    except SyntaxError as error:
        raise ExpressionError(f'column {error.offset or len(text) + 1}: {error.msg}: {text!r}') from error
    except (MemoryError, RecursionError, ValueError) as error:
        raise ExpressionError('column 1: it is nested too deeply: simplify it') from error
    return _Compiler(text, places).number(tree, 0)


class _Compiler:
    """Turns allowed nodes into closures; a term of several values is a vector, all else numbers."""

    def __init__(self, text: str, places: Mapping[str, slice]) -> None:
        self._text, self._places = text, places
        self._nodes = 0

    def number(self, node: ast.expr, depth: int) -> Function:
        """Compile a node that must be a number."""
        return self._single(node, *self._any(node, depth))

    def _single(self, node: ast.expr, vector: bool, function: Function) -> Function:
        """Return the function of a compiled node that must be a number."""
        if vector:
            name = self._source(node)
            raise _error(node, f"'{name}' has several values: take one, as {name}[0], or one of "
                         f"{', '.join(sorted(_VECTOR))} of it")
        return function

    def _any(self, node: ast.expr, depth: int) -> tuple[bool, Function]:
        """Return whether a node is a vector, and its function."""
        self._nodes += 1
        if depth > MAXIMUM_DEPTH or self._nodes > MAXIMUM_NODES:
            raise _error(node, f'more than {MAXIMUM_DEPTH} levels or {MAXIMUM_NODES} parts: simplify it')
        depth += 1
        match node:
            case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
                return False, self._constant(node)
            case ast.Name():
                return self._name(node)
            case ast.UnaryOp(op=ast.USub()):
                operand = self.number(node.operand, depth)
                return False, lambda v, p: -operand(v, p)
            case ast.UnaryOp(op=ast.Not()):
                operand = self.number(node.operand, depth)
                return False, lambda v, p: not operand(v, p)
            case ast.BinOp() if type(node.op) in _OPERATORS:
                left, right = self.number(node.left, depth), self.number(node.right, depth)
                work = _OPERATORS[type(node.op)]
                return False, lambda v, p: work(left(v, p), right(v, p))
            case ast.Compare() if all(type(op) in _OPERATORS for op in node.ops):
                return False, self._comparison(node, depth)
            case ast.BoolOp():
                parts = [self.number(part, depth) for part in node.values]
                decide = all if isinstance(node.op, ast.And) else any
                return False, lambda v, p: decide(part(v, p) for part in parts)
            case ast.IfExp():
                test, body, other = (self.number(n, depth) for n in (node.test, node.body, node.orelse))
                return False, lambda v, p: body(v, p) if test(v, p) else other(v, p)
            case ast.Subscript():
                return False, self._element(node, depth)
            case ast.Call(func=ast.Name(id=function)) if not node.keywords:
                return self._call(node, function, depth)
        raise _error(node, f"'{self._source(node)}' is not allowed: use numbers, names of terms, "
                     '+ - * / % **, comparisons, and, or, not, if else, [index] and functions')

    def _source(self, node: ast.expr) -> str:
        return self._text[node.col_offset:node.end_col_offset][:40]

    def _constant(self, node: ast.Constant) -> Function:
        try:
            value = float(node.value)  # type: ignore[arg-type]
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise _error(node, 'the number is too large')
        return lambda v, p: value

    def _name(self, node: ast.Name) -> tuple[bool, Function]:
        place, constant = self._places.get(node.id), _CONSTANTS.get(node.id)
        if constant is not None:
            return False, lambda v, p: constant
        if place is None:
            known = [*self._places, *_CONSTANTS]
            near = difflib.get_close_matches(node.id, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"terms are {', '.join(known[:20])}"
            raise _error(node, f"no observation term '{node.id}': {hint}")
        start = place.start
        if place.stop - start == 1:
            return False, lambda v, p: v[start]
        return True, lambda v, p: v[place]

    def _comparison(self, node: ast.Compare, depth: int) -> Function:
        parts = [self.number(part, depth) for part in (node.left, *node.comparators)]
        works = [_OPERATORS[type(op)] for op in node.ops]

        def compare(v: Values, p: Values) -> bool:
            values = [part(v, p) for part in parts]
            return all(work(values[i], values[i + 1]) for i, work in enumerate(works))
        return compare

    def _element(self, node: ast.Subscript, depth: int) -> Function:
        vector, function = self._any(node.value, depth)
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if not vector or type(index) is not int:
            raise _error(node, 'an index is a whole number from 0, behind a term of several values')
        size = self._size(node.value)
        if index >= size:
            raise _error(node, f"'{self._source(node.value)}' has {size} values, 0..{size - 1}")
        return lambda v, p: function(v, p)[index]

    def _size(self, vector: ast.expr) -> int:
        """Return the number of values of a vector, which is a term or the previous one of it."""
        while isinstance(vector, ast.Call):
            vector = vector.args[0]
        assert isinstance(vector, ast.Name)
        place = self._places[vector.id]
        return int(place.stop - place.start)

    def _call(self, node: ast.Call, name: str, depth: int) -> tuple[bool, Function]:
        if name not in RESERVED or name in _CONSTANTS:
            raise _error(node, f"no function '{name}': there are "
                         f"{', '.join(sorted({*_SCALAR, *_VECTOR, 'previous'}))}")
        arguments = [self._any(argument, depth) for argument in node.args]
        if name == 'previous' and len(arguments) == 1:
            vector, function = arguments[0]
            return vector, lambda v, p: function(p, p)
        if name in _VECTOR and len(arguments) == 1 and arguments[0][0]:
            reduce, values = _VECTOR[name], arguments[0][1]
            return False, lambda v, p: reduce(values(v, p))
        if (name in ('min', 'max') and len(arguments) > 1) \
                or (name in _SCALAR and len(arguments) == _SCALAR[name][1]):
            parts = [self._single(*pair) for pair in zip(node.args, *zip(*arguments, strict=True),
                                                         strict=True)]
            return False, _applied(_SCALAR[name][0] if name in _SCALAR else _VECTOR[name], parts)
        takes = 'one term of several values' if name in _VECTOR else \
            f'{_SCALAR[name][1] if name in _SCALAR else 1} value(s)'
        raise _error(node, f"'{name}' takes {takes}")


def _applied(work: Callable[..., float], parts: list[Function]) -> Function:
    if len(parts) == 1:
        part = parts[0]
        return lambda v, p: work(part(v, p))
    return lambda v, p: work(*[part(v, p) for part in parts])


def _error(node: ast.expr, problem: str) -> ExpressionError:
    return ExpressionError(f'column {node.col_offset + 1}: {problem}')
