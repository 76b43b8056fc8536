"""The wheel holds the complete package, its data included, and puts one name into site-packages."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ("worlds/shipped/push/model.safetensors", "triage/report/report.html.jinja")
IMPORT_ALL = """
import contextlib, importlib, pkgutil, sys, worldsim
from worldsim.errors import MissingExtraError
sys.modules["lerobot"] = None  # only its plugin needs it to be imported, and says so
for module in pkgutil.walk_packages(worldsim.__path__, "worldsim."):
    with contextlib.suppress(MissingExtraError):
        importlib.import_module(module.name)
print(worldsim.__file__)
"""


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_from_sdist_is_complete_and_adds_one_name(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT), cwd=tmp_path)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site))
    run(*pip, str(wheel), cwd=tmp_path)
    names = {p.name for p in site.iterdir() if p.name != "bin" and not p.name.endswith(".dist-info")}
    assert names == {"worldsim"}
    for name in DATA:
        assert (site / "worldsim" / name).is_file(), f"{name} is not in the wheel"
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n" + IMPORT_ALL
    assert str(site) in run(sys.executable, "-c", code, cwd=tmp_path)
