"""A machine that only trains has torch, numpy and safetensors: what trains, plays worlds and plans must import there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

PRESENT = {"torch", "numpy", "safetensors"}
IMPORTED_AS = {"pillow": "PIL"}
PACKAGES = ("worlds", "predict", "tokenizers", "planners", "rollout")
"""Every module of these; they import the rest of what a model needs."""
TRAINING = ("optimize", "data.latents", "data.windows", "train.recipes.predictor")


def absent() -> list[str]:
    """Modules of all other dependencies, extras included, by what pyproject.toml says."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(line for name in extras if name not in ("test", "dev") for line in extras[name]),
    ]
    names = {re.split(r"[\[<>=~! ]", line)[0] for line in wanted} - PRESENT - {"worldsim"}
    return sorted(IMPORTED_AS.get(name, name.split("-core")[0].replace("-", "_")) for name in names)


def test_models_training_and_planning_import_without_simulators_or_codecs() -> None:
    names = absent()
    assert {"gymnasium", "mujoco", "av", "PIL", "hydra", "lerobot", "transformers"} <= set(names)
    code = f"""
import importlib, pkgutil, sys
for name in {names!r}: sys.modules[name] = None
import worldsim
found = [m.name for m in pkgutil.walk_packages(worldsim.__path__, "worldsim.") if m.name.split(".")[1] in {PACKAGES!r}]
for name in [*found, *("worldsim." + name for name in {TRAINING!r})]: importlib.import_module(name)
print(len(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50
