"""Kill -9 of real processes, between steps and in the middle of a checkpoint: the same command ends with the same weights."""

import json
import subprocess
import sys

import torch

from tests.reason.train.test_grpo import task
from tests.reason.train.test_sft import begun, recipe, weights
from tests.train import toy
from worldsim import storage
from worldsim.reason.train.run import SPENT
from worldsim.train.config import RECIPES

DIE = """
import json, os, signal, sys
from worldsim import storage
from worldsim.reason.train import run as reason_run
from worldsim.train.config import RECIPES
import datasets, peft, trl
trl.GRPOTrainer, trl.SFTTrainer  # imported once, before the children are made

def die(): os.kill(os.getpid(), signal.SIGKILL)

def between_steps(stage, step, steps, values):
    if stage.startswith("reason") and step >= 3: die()

def in_a_checkpoint(path, value, plain=storage.write_json):
    die() if path.name == reason_run.SPENT and path.parent.name == "checkpoint-4" else plain(path, value)

def child(name, values, **options):
    pid = os.fork()
    if not pid:
        RECIPES[name].make(storage.from_json(RECIPES[name].config, values), **options)
        os._exit(1)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])

sft, grpo = (json.loads(text) for text in sys.argv[1:])
print(child("reason-sft", sft, progress=between_steps))
storage.write_json = in_a_checkpoint
print(child("reason-grpo", grpo))
"""


def configs(data, start, out):
    both = {"steps": 4, "shown": "video", "evaluate_every": 2}
    rewards = {"rewards": ("random",), "reward_weights": (1.0,)}
    return {
        "reason-sft": recipe(data, out / "sft", warmup=2, **both),
        "reason-grpo": task(data, start, out / "grpo", warmup=0, **rewards, **both),
    }


def test_what_kill_9_leaves_ends_with_the_same_weights(tmp_path):
    data = toy.write(tmp_path / "data", episodes=24)
    start = begun(data, tmp_path / "start")
    killed = tmp_path / "killed"
    split_policies = configs(data, start, killed)
    arguments = [json.dumps(storage.to_json(c)) for c in split_policies.values()]
    done = subprocess.run([sys.executable, "-c", DIE, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["9", "9"], done.stderr[-2000:]
    assert (killed / "sft/checkpoints/checkpoint-2" / SPENT).exists() and not (killed / "sft/model").exists()
    torn = killed / "grpo/checkpoints/checkpoint-4"
    assert (torn / "model.safetensors").exists() and not (torn / SPENT).exists()
    for name, config in configs(data, start, tmp_path / "full").items():
        seen = []
        full = RECIPES[name].make(config)
        again = RECIPES[name].make(
            split_policies[name], progress=lambda stage, step, *rest, seen=seen: seen.append((stage, step))
        )
        assert min(step for stage, step in seen if stage == name) > 2, "what was done is not done again"
        first, second = weights(full), weights(again)
        assert all(torch.equal(first[k], second[k]) for k in first)
        lines = [[json.loads(n) for n in (m.parent / "metrics.jsonl").read_text().splitlines()] for m in (full, again)]
        kept = [[(n["step"], n.get("accuracy/arrow")) for n in part] for part in lines]
        assert kept[0] == kept[1], "and is logged once"
