"""A machine that only trains has torch, numpy, einops and safetensors: what trains and plays worlds must import there."""

import subprocess
import sys

ABSENT = [
    "gymnasium",
    "mujoco",
    "av",
    "pyarrow",
    "PIL",
    "scipy",
    "matplotlib",
    "typer",
    "rich",
    "jinja2",
    "hydra",
    "omegaconf",
    "lerobot",
    "huggingface_hub",
]
NEEDED = "worlds worlds.latent worlds.state predict.registry tokenizers.registry train.recipes.predictor optimize data.latents data.windows"


def test_training_and_worlds_import_without_simulators_or_codecs() -> None:
    code = (
        f"import sys\nfor name in {ABSENT!r}: sys.modules[name] = None\n"
        f"import importlib\nfor name in {NEEDED.split()!r}: importlib.import_module('worldsim.' + name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
