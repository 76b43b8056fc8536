"""`worldsim train WHAT key=value ...`: Hydra reads the overrides, the recipes do the work."""

from typing import Annotated

import typer

from worldsim.cli.console import say
from worldsim.errors import missing_extra, unknown_name
from worldsim.progress import progress_bars

DRY_RUN = ("dry_run=true", "dry-run=true")
RECIPES = ("world", "policy", "reason-sft", "reason-grpo")


def train(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(help="What to train: world, policy, reason-sft or reason-grpo.", metavar="WHAT")
    ],
    device: Annotated[
        str | None, typer.Option(help="Where to train: cpu, cuda or cuda:N. \\[default: cpu, or what device= says]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print all settings, and what a world would cost, and stop.")
    ] = False,
) -> None:
    r"""Train a world, policies or a critic from a dataset; the same command continues after a kill.

    Settings follow as key=value, for example:

        worldsim train world data=data/push out=worlds/push

        worldsim train world data=data/push out=worlds/conv tokenizer.name=haar_pca predictor.name=conv

        worldsim train policy data=data/demonstrations out=policies/bc checkpoints=[200,600] seeds=[0,1]

        worldsim train reason-sft data=data/push out=critics/sft items.tasks=\[arrow,puzzle,permanence]

        worldsim train reason-grpo data=data/push out=critics/grpo model=critics/sft/model

        worldsim train world data=data/mine out=worlds/mine minutes=30

    --dry-run prints all settings with their defaults; for a world also which families fit, which
    tokenizer and predictor they have, what is doubtful about the data, and what the training will cost in time and memory, from
    a rehearsal of a few steps. Which of several families is trained is found by a short trial of each (family=NAME: without).
    """
    if what not in RECIPES:
        raise unknown_name("recipe", what, RECIPES)
    try:
        from worldsim.train.config import data_notes, plan, resolve, run, to_yaml
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "hydra-core", "train") from error
    asked = [argument for argument in context.args if argument.lower() not in DRY_RUN]
    config = resolve(what, asked, device=device)
    if dry_run or len(asked) < len(context.args):
        say(to_yaml(config))
        with progress_bars() as progress:
            planned = plan(what, config, progress=progress)
        if planned:
            say(planned)
        return
    for note in data_notes(config):
        say(note)
    with progress_bars() as progress:
        made = run(what, config, progress=progress, say=say)
    if what == "world":
        from worldsim.worlds.labelling import describe_labels

        say(describe_labels(made))
    say(f"Wrote {made}")
