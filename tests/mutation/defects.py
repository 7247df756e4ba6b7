"""Small defects that ``mutation.run`` puts into the source of scripts and calls, one at a time."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

_FLIPS: Final = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("~=",),
    "~=": ("==",),
    "!=": ("==",),
    "is": ("is not",),
    "is not": ("is",),
    "in": ("not in",),
    "not in": ("in",),
    "+": ("-",),
    "-": ("+",),
    "*": ("+",),
    "/": ("*",),
    "//": ("*",),
    "%": ("+",),
    "and": ("or",),
    "or": ("and",),
    "true": ("false",),
    "false": ("true",),
    "True": ("False",),
    "False": ("True",),
    "max": ("min",),
    "min": ("max",),
    "all": ("any",),
    "any": ("all",),
    "ceil": ("floor",),
    "floor": ("ceil",),
    "not ": ("",),
}


class Mutation(NamedTuple):
    """What stands at ``start`` to ``end`` of a text, in characters, gives way to ``new``."""

    start: int
    end: int
    new: str

    def applied(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]


class Mutant(NamedTuple):
    """A file with one mutation."""

    path: str
    line: int
    old: str
    new: str
    mutation: Mutation

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.old!r} -> {self.new!r}"


def mutants(root: Path, path: str) -> list[Mutant]:
    """All mutants of a file, from its top to its end, each text once."""
    text = (root / path).read_text("utf-8")
    found: dict[str, Mutant] = {}
    for mutation in sorted(lua(text) if path.endswith(".lua") else python(text)):
        line = text.count("\n", 0, mutation.start) + 1
        begin, end = text.rfind("\n", 0, mutation.start) + 1, text.find("\n", mutation.end)
        changed = mutation.applied(text)
        new = changed[begin : end + len(changed) - len(text)]
        found.setdefault(changed, Mutant(path, line, text[begin:end].strip(), new.strip(), mutation))
    found.pop(text, None)
    return list(found.values())


def _off_by_one(digits: str) -> list[str]:
    """A little more and a little less; of a large figure twice and half, since one more is hardly a defect."""
    number = int(digits)
    if number >= 1000:
        return [str(2 * number), str(number // 2)]
    return [str(number + 1), *([str(number - 1)] if number else [])]


# --- Lua -----------------------------------------------------------------------------------------------------------


class Token(NamedTuple):
    start: int
    end: int
    text: str


_LUA_TOKEN: Final = re.compile(
    r"(?P<skip>--[^\n]*|\s+)|'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|\d+|[A-Za-z_]\w*|\.\.|[=~<>]=|[^\s]"
)
_KEYWORDS: Final = frozenset(
    [
        "and",
        "break",
        "do",
        "else",
        "elseif",
        "end",
        "for",
        "function",
        "if",
        "in",
        "local",
        "nil",
        "not",
        "or",
        "repeat",
        "return",
        "then",
        "until",
        "while",
    ]
)
_OPERATORS: Final = frozenset({"+", "*", "/", "..", "and", "or", "==", "~=", "<", ">", "<=", ">=", ",", "="})


def _tokens(text: str) -> list[Token]:
    return [Token(match.start(), match.end(), match[0]) for match in _LUA_TOKEN.finditer(text) if match["skip"] is None]


def lua(text: str) -> Iterator[Mutation]:
    """The defects of a script."""
    tokens = _tokens(text)
    before = ""
    for token, after in zip(tokens, [*tokens[1:], tokens[-1]], strict=True):
        if token.text == "+" and after.text == "0":  # makes a number of a text, and "-" would too
            continue
        operand = before in {")", "]"} or (bool(re.match(r"[\w'\"]", before)) and before not in _KEYWORDS)
        if (token.text == "-" and not operand) or token.text == "not":
            yield Mutation(token.start, token.end, "")
        elif token.text.isdigit():
            for number in _off_by_one(token.text):
                yield Mutation(token.start, token.end, number)
        elif token.text not in {"in", "is"}:
            for new in _FLIPS.get(token.text, ()):
                yield Mutation(token.start, token.end, new)
        before = token.text
    yield from _lua_conditions(text, tokens)
    yield from _lua_statements(text, tokens)


def _lua_conditions(text: str, tokens: list[Token]) -> Iterator[Mutation]:
    """Each ``if`` the other way round."""
    begin = 0
    for at, token in enumerate(tokens):
        if token.text in {"if", "elseif"}:
            begin = tokens[at + 1].start
        elif token.text == "then":
            end = tokens[at - 1].end
            yield Mutation(begin, end, f"not ({text[begin:end]})")


def _lua_statements(text: str, tokens: list[Token]) -> Iterator[Mutation]:
    """Each statement that stands on lines of its own, taken away: assignments, calls, returns; no declarations."""
    by_line: dict[int, list[Token]] = {}
    for token in tokens:
        by_line.setdefault(text.count("\n", 0, token.start), []).append(token)
    lines = list(by_line.values())
    at = 0
    while at < len(lines):
        statement = list(lines[at])
        while at + 1 < len(lines) and (_is_open(statement) or lines[at + 1][0].text in _OPERATORS):
            at += 1
            statement += lines[at]
        at += 1
        first = statement[0].text
        if re.match(r"[A-Za-z_]", first) and (first not in _KEYWORDS or first == "return"):
            yield Mutation(statement[0].start, statement[-1].end, "")


def _is_open(tokens: list[Token]) -> bool:
    depth = sum((token.text in "([{") - (token.text in ")]}") for token in tokens)
    return depth > 0 or tokens[-1].text in _OPERATORS


# --- Python --------------------------------------------------------------------------------------------------------


def python(text: str) -> Iterator[Mutation]:
    """The defects of a module; annotations and docstrings have none."""
    return _Python(text).mutations()


class _Python(ast.NodeVisitor):
    def __init__(self, text: str) -> None:
        self._text = text
        self._lines = [0]
        for line in text.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._found: list[Mutation] = []

    def mutations(self) -> Iterator[Mutation]:
        self.visit(ast.parse(self._text))
        return iter(self._found)

    def _at(self, line: int, column: int) -> int:
        """The place in characters of what ast tells in UTF-8."""
        begin = self._lines[line - 1]
        return begin + len(self._text[begin : self._lines[line]].encode()[:column].decode())

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.lineno, node.col_offset)

    def _end(self, node: ast.expr | ast.stmt) -> int:
        return self._at(node.end_lineno or 0, node.end_col_offset or 0)

    def _replace(self, node: ast.expr | ast.stmt, *texts: str) -> None:
        self._found += [Mutation(self._start(node), self._end(node), text) for text in texts]

    def _flip_between(self, left: ast.expr, right: ast.expr) -> None:
        """The operator that stands between two operands."""
        start, end = self._end(left), self._start(right)
        sign = re.search(r"not in|is not|[<>=!]=|//|\b(?:in|is|and|or)\b|[-+*/%<>]", self._text[start:end])
        if sign:
            for new in _FLIPS.get(sign[0], ()):
                shown = "!=" if new == "~=" else new
                self._found.append(Mutation(start + sign.start(), start + sign.end(), shown))

    def _negate(self, condition: ast.expr) -> None:
        self._replace(condition, f"(not ({self._text[self._start(condition) : self._end(condition)]}))")

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            self._flip_between(left, right)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._flip_between(left, right)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not isinstance(node.op, ast.BitOr):  # mostly of types
            self._flip_between(node.left, node.right)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self._found.append(Mutation(self._start(node), self._start(node.operand), ""))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value))
        elif isinstance(node.value, int):
            self._replace(node, *_off_by_one(str(node.value)))

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in {"min", "max", "all", "any"}:
            self._replace(node, *_FLIPS[node.id])

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit_If(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            self._replace(node, "return None")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self._replace(node, "pass")
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise | ast.AugAssign) -> None:
        self._replace(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit_Raise(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not isinstance(node.targets[0], ast.Name | ast.Tuple):
            self._replace(node, "pass")
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in (*node.defaults, *filter(None, node.kw_defaults)):
            self.visit(default)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in (node.args, *node.body):
            self.visit(part)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)
