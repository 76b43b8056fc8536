import subprocess
import sys
from pathlib import Path

import pytest

from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.user_code import import_name, is_code_ref

TELL = "from pathlib import Path; Path(__file__ + '.ran').touch()\n"


def test_references_are_kept_apart_from_paths(tmp_path):
    assert is_code_ref("a.b:c")
    assert is_code_ref("dir/a.py:c")
    for path in ("a/b", "runs/x:y/z", "C:/runs", "plain", ":f", "a b:c"):
        assert not is_code_ref(path)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own that does not search the working folder."""
    return subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_the_working_folder_serves_what_is_named_and_what_that_imports(tmp_path: Path) -> None:
    (tmp_path / "robot.py").write_text(
        "import helper\ndef act(x):\n    import late\n    return helper.ONE + late.ONE\n"
    )
    for name in ("helper", "late"):
        (tmp_path / f"{name}.py").write_text("ONE = 1\n")
    code = "from worldsim.user_code import import_name\nprint(import_name('robot:act')(0))"
    done = run(code, tmp_path)
    assert done.stdout == "2\n", done.stderr


def test_the_working_folder_serves_nothing_else(tmp_path: Path) -> None:
    for name in (
        "scipy",
        "not_installed_anywhere",
        "torch",
    ):  # one that is installed, one that is not, one that is loaded
        (tmp_path / f"{name}.py").write_text(TELL)
    (tmp_path / "robot.py").write_text("import scipy.stats, torch\nact = scipy.stats.norm\n")
    code = (
        "from worldsim.user_code import import_name\nimport_name('robot:act')\n"
        "try:\n    import not_installed_anywhere\nexcept ImportError:\n    print('not found')"
    )
    done = run(code, tmp_path)
    assert done.stdout == "not found\n", done.stderr
    assert list(tmp_path.glob("*.ran")) == []


def test_what_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="nothing_like_it"):
        import_name("nothing_like_it:f")
    with pytest.raises(UnknownNameError, match="dumps"):
        import_name("json:dump_s")
