"""What is counted of a source tree: importers, repetition, shapes, words, and the notes of a traced run."""

import pytest

from benchmarks import house_source, words
from benchmarks.house_source import Tree
from benchmarks.house_trace import read

LOOP = """
def total{n}({a}):
    seen = 0
    for one in {a}:
        if one.size > 3:
            seen += one.size * 2
        elif one.size < 0:
            raise ValueError(one.size)
        else:
            seen -= 1
    return seen
"""


def test_files_that_one_other_file_imports_are_slivers_where_they_are_short():
    tree = Tree(
        {
            "p/__init__.py": "",
            "p/short.py": "x = 1\n",
            "p/long.py": "x = 1\n" * 90,
            "p/shared.py": "x = 1\n",
            "p/a.py": "from p import short, shared\nfrom p.long import x\n",
            "p/b.py": "import p.shared\n",
        }
    )
    assert house_source.imported_once(tree) == ["p/short.py", "p/long.py"]
    assert house_source.slivers(tree) == ["p/short.py"]


def test_repetition_is_found_word_for_word_and_by_shape_alone():
    same = Tree({"a.py": LOOP.format(n=1, a="items"), "b.py": '"""Docstring."""\n\n' + LOOP.format(n=1, a="items")})
    other = Tree({"a.py": LOOP.format(n=1, a="items"), "b.py": LOOP.format(n=2, a="rows")})
    assert house_source.repetitions(same, by_shape=False) == ["a.py:2 = b.py:4, 10 lines"]
    assert house_source.repetitions(other, by_shape=True) == ["a.py:2 = b.py:2, 10 lines"]
    assert [line.split(", ")[1] for line in house_source.repetitions(other, by_shape=False)] == ["7 lines"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(z_BCHW: Tensor) -> Tensor: ...", True),
        ("def f(z: Tensor) -> Tensor:\n    '''Of frames [B, C], scaled.'''", True),
        ("def f(z: Tensor) -> Tensor:\n    '''See `worldsim.protocols.World`.'''", True),
        ("def f(z: Tensor) -> Tensor:\n    '''Scaled by `sizes[index]`.'''", False),
        ("class A:\n    def f(self, z_low: Tensor) -> None: ...", False),
    ],
)
def test_a_shape_is_a_suffix_or_stands_in_the_docstring(source, said):
    assert list(house_source.tensor_functions(Tree({"a.py": source})).values()) == [said]


def test_private_functions_and_those_without_tensors_are_not_asked_for_shapes():
    tree = Tree(
        {
            "a.py": "def _f(z: Tensor) -> None: ...\ndef g(n: int) -> int: ...\nclass _A:\n    def f(self, z: Tensor): ..."
        }
    )
    assert house_source.tensor_functions(tree) == {}


@pytest.mark.parametrize(
    "text", ["It is told.", "def _told(", "class ToldEnd:", "TOLD = 1", "runsWhoeverComes", "whole_image"]
)
def test_a_word_is_found_in_prose_and_in_parts_of_names(text):
    assert len(list(words.found(text))) == 1


@pytest.mark.parametrize(
    "text", ["benchmarks", "of course", "a whole number", "python -m benchmarks.house", "stolds", "standing still"]
)
def test_other_words_are_left_alone(text):
    assert list(words.found(text)) == []


def test_the_places_of_words_are_named_with_what_to_write_instead(tmp_path):
    (tmp_path / "worldsim").mkdir()
    (tmp_path / "worldsim/a.py").write_text("x = 1\n# nobody\n")
    assert words.left(tmp_path) == ["worldsim/a.py:2: nobody (no caller, no one)"]


def test_notes_of_all_processes_make_one_trace():
    notes = """1.0 7 call 1 /cli.py:main
1.1 7 load 2 /worlds/latent.py:LatentWorld.from_pretrained
1.2 7 call 3 /pool.py:Pool.run
1.2 7 call 4 /pool.py:Pool.run.<locals>.<genexpr>
1.2 7 call 4 /pool.py:<genericparametersofrun>
1.3 7 send 3 connection.py:Connection._send_bytes
1.4 8 call 1 /worker.py:serve
1.5 8 load 2 /worlds/latent.py:LatentWorld.from_pretrained
1.5 8 load 2 /worlds/latent.py:LatentWorld.from_pretrained
1.6 8 act 2 /policies/a.py:act
1.7 7 commit 4 /store.py:Store.commit
1.8 7 call 2 /report.py:write
"""
    with pytest.raises(RuntimeError, match="loaded no world"):
        read(notes.replace(" load ", " call "))
    found = read(notes)
    assert (found.functions, found.files, found.frames, found.worker_frames) == (3, 3, 5, 2)
    assert (found.loads, found.processes, found.most_loads) == (3, 2, 2)
