"""What can be counted of a source tree without running it: files, imports, repetition, and shapes in signatures."""

import ast
import collections
import dataclasses
import io
import itertools
import keyword
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

SHORT = 80
"""Lines below which a file that one other file imports belongs inside it."""
LEAST = 6
"""Lines of a repetition."""
_TOKENS = 3
"""Least mean tokens a line of a repetition: fewer are lists of arguments."""
_ARGUMENT = re.compile(r"(name=)?(name\.)*(name|value),")
"""A line that holds one argument of a call and nothing else: lists of these are alike wherever there are many."""
_TENSOR = re.compile(r"\bTensor\b")
_SUFFIX = re.compile(r"_(?:[A-Z][0-9]?)+$")
_SHAPE = re.compile(r"\[(?:[A-Za-z]\w?|\d+|\.\.\.)(?:[\s,+*/-][^\]\n]*)?\]|\bscalar\b|[Ss]ee `")


@dataclasses.dataclass(frozen=True)
class Tree:
    """The Python files of a package.

    Attributes:
        texts: Path below the root, with slashes -> text.
    """

    texts: Mapping[str, str]

    @classmethod
    def read(cls, root: Path, package: str = "worldsim") -> "Tree":
        """The files of a package below a root."""
        paths = sorted((root / package).rglob("*.py"))
        return cls({p.relative_to(root).as_posix(): p.read_text(encoding="utf8") for p in paths})

    @property
    def lines(self) -> int:
        """Lines of all files together."""
        return sum(text.count("\n") for text in self.texts.values())


def module_of(path: str) -> str:
    """``worldsim.a.b`` of ``worldsim/a/b.py`` and of ``worldsim/a/b/__init__.py``."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def importers(tree: Tree) -> dict[str, set[str]]:
    """Path -> paths of the other files that import it, packages' own ``__init__`` included."""
    known = {module_of(path): path for path in tree.texts}
    found: dict[str, set[str]] = {path: set() for path in tree.texts}
    for path, text in tree.texts.items():
        for name in _imported(ast.parse(text)):
            target = known.get(name)
            if target is not None and target != path:
                found[target].add(path)
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    """Names that may be modules: of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_once(tree: Tree) -> list[str]:
    """Files, packages' ``__init__`` aside, that exactly one other file imports."""
    return [p for p, by in importers(tree).items() if len(by) == 1 and not p.endswith("__init__.py")]


def slivers(tree: Tree) -> list[str]:
    """Those of under `SHORT` lines that exactly one other file imports."""
    return [path for path in imported_once(tree) if tree.texts[path].count("\n") < SHORT]


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of code: where it stands, its tokens, and its tokens with names and values wiped."""

    number: int
    literal: tuple[str, ...]
    shape: tuple[str, ...]


def code_lines(text: str) -> list[Line]:
    """Lines of code with their tokens: no comments, docstrings, imports, declared fields and lone arguments."""
    skipped = _lines_left_out(ast.parse(text))
    rows: dict[int, list[tokenize.TokenInfo]] = collections.defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.string.strip() and token.type != tokenize.COMMENT and token.start[0] not in skipped:
            rows[token.start[0]].append(token)
    lines = [Line(n, tuple(t.string for t in row), tuple(map(_wiped, row))) for n, row in sorted(rows.items())]
    return [line for line in lines if not _ARGUMENT.fullmatch("".join(line.shape))]


def _wiped(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
        return "name"
    return "value" if token.type in (tokenize.NUMBER, tokenize.STRING) else token.string


def _lines_left_out(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text or isinstance(node, ast.Import | ast.ImportFrom | ast.AnnAssign):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))  # type: ignore[attr-defined]
    return lines


def repetitions(tree: Tree, *, by_shape: bool) -> list[str]:
    """Pairs of places with the same `LEAST` or more lines of code, as long as they go, ``a:line = b:line, n lines``.

    Args:
        tree: The files.
        by_shape: Compare lines with all names and values taken for equal; else word for word.
    """
    lines = {path: code_lines(text) for path, text in tree.texts.items()}
    windows: dict[tuple[tuple[str, ...], ...], list[tuple[str, int]]] = collections.defaultdict(list)
    for path, rows in lines.items():
        keys = [row.shape if by_shape else row.literal for row in rows]
        for i in range(len(keys) - LEAST + 1):
            window = tuple(keys[i : i + LEAST])
            if sum(map(len, window)) >= _TOKENS * LEAST:
                windows[window].append((path, i))
    pairs = {pair for places in windows.values() for pair in itertools.combinations(places, 2) if not _overlap(*pair)}
    first = [pair for pair in pairs if _moved(pair, -1) not in pairs]
    found = [
        (*pair, next(n for n in itertools.count(LEAST) if _moved(pair, n - LEAST + 1) not in pairs)) for pair in first
    ]
    return sorted(
        f"{a}:{lines[a][i].number} = {b}:{lines[b][j].number}, {count} lines"
        for (a, i), (b, j), count in found
        if sum(len(row.literal) for row in lines[a][i : i + count]) >= _TOKENS * count
    )


def _overlap(one: tuple[str, int], other: tuple[str, int]) -> bool:
    return one[0] == other[0] and abs(one[1] - other[1]) < LEAST


def _moved(pair: tuple[tuple[str, int], tuple[str, int]], by: int) -> tuple[tuple[str, int], tuple[str, int]]:
    (a, i), (b, j) = pair
    return (a, i + by), (b, j + by)


def tensor_functions(tree: Tree) -> dict[str, bool]:
    """``file:line name`` of every public function with a Tensor in its signature -> whether it says a shape.

    A shape is a capital suffix of an argument (`z_BCHW`), or brackets with sizes in the docstring; a docstring that
    refers to the protocol (See `Protocol.method`) says those of the protocol.
    """
    found = {}
    for path, text in tree.texts.items():
        for node in _public(ast.parse(text).body):
            signature = [a.annotation for a in _arguments(node) if a.annotation] + (
                [node.returns] if node.returns else []
            )
            if any(_TENSOR.search(ast.unparse(one)) for one in signature):
                suffixed = any(_SUFFIX.search(a.arg) for a in _arguments(node)) or bool(_SUFFIX.search(node.name))
                documented = bool(_SHAPE.search(ast.get_docstring(node) or ""))
                found[f"{path}:{node.lineno} {node.name}"] = suffixed or documented
    return found


def _public(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _public(node.body)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from [node] * (not node.name.startswith("_") or node.name == "__call__")


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    given = node.args
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *(a for a in (given.vararg, given.kwarg) if a)]
