"""Rules of the source that no linter knows: lengths, docstrings, no code from data, no slivers, links at the top."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import words
from benchmarks.house_source import Tree, slivers, tensor_functions

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "worldsim").rglob("*.py"))
LONGEST_FILE, LONGEST_BODY = 400, 40
LONG_FILES = {"worldsim/core.py"}  # the values that all packages share, in one place
LONG_FUNCTIONS = {"worldsim/envs/push/scene.py:push_xml"}  # one MJCF text
ONE_FILE_EACH = ("cli/", "planners/rules/", "reason/tasks/", "testing/", "train/recipes/", "triage/allocate/")
"""Packages whose files are one verb, rule, task, contract, recipe or allocator each, found by name in a registry."""
EXCLUSIONS = {  # a reader would look there for what they exclude
    "worldsim/predict/mlp.py",
    "worldsim/testing/__init__.py",
    "worldsim/tokenizers/layers/tokenizer.py",
}
OWN_PICKLES = "worldsim/triage/engine/channel.py"  # between a process and its own workers, as multiprocessing does
LINKS = ("envs", "planners", "reason", "train")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text(encoding="utf8")
    name = str(path.relative_to(ROOT))
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{name} does not say what it is for"
    assert text.count("\n") <= LONGEST_FILE or name in LONG_FILES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.end_lineno - node.body[0].lineno + 1 if node.end_lineno else 0
            if ast.get_docstring(node):
                body -= node.body[0].end_lineno - node.body[0].lineno + 1  # type: ignore[operator]
            allowed = body <= LONGEST_BODY or f"{name}:{node.name}" in LONG_FUNCTIONS
            assert allowed, f"{name}: {node.name} has {body} lines"


def test_a_short_file_that_one_other_file_imports_stands_inside_it() -> None:
    found = {p for p in slivers(Tree.read(ROOT)) if not p.removeprefix("worldsim/").startswith(ONE_FILE_EACH)}
    assert not found, f"Move each into the file that imports it: {sorted(found)}"


def test_the_fields_own_words_are_used() -> None:
    assert words.left(ROOT) == []


def test_public_functions_on_tensors_say_shapes() -> None:
    assert [name for name, said in tensor_functions(Tree.read(ROOT)).items() if not said] == []


def test_modules_say_what_they_are_for_and_not_what_they_are_not_for() -> None:
    exclusion = re.compile(r"(?:^|[.:] )Not (?:for|the|a)\s", re.MULTILINE)
    texts = {p: ast.get_docstring(ast.parse(text)) or "" for p, text in Tree.read(ROOT).texts.items()}
    assert {p for p, text in texts.items() if exclusion.search(text)} == EXCLUSIONS


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_code_runs_from_data(path: Path) -> None:
    forbidden = r"\b(pickle\.load|torch\.load|yaml\.load|shell=True|allow_pickle=True)|(?<![\w.])(eval|exec)\("
    found = [m.group() for m in re.finditer(forbidden, path.read_text(encoding="utf8"))]
    assert found == (["pickle.load"] if path == ROOT / OWN_PICKLES else [])


def test_import_loads_neither_torch_nor_extras() -> None:
    code = (
        "import sys, worldsim; "
        "heavy = [m for m in ('torch', 'lerobot', 'transformers', 'hydra', 'mujoco', 'matplotlib') if m in sys.modules]; "
        "sys.exit(','.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", LINKS)
def test_the_links_at_the_top_are_relative(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink(), f"{name} at the top is no link"
    assert str(link.readlink()) == f"worldsim/{name}" and link.is_dir()


def test_there_are_no_other_links_at_the_top() -> None:
    assert sorted(path.name for path in ROOT.iterdir() if path.is_symlink()) == sorted(LINKS)
