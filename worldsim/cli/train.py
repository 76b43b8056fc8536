"""`worldsim train WHAT key=value ...`: Hydra reads the overrides, the recipes do the work."""

from typing import Annotated

import typer

from worldsim.cli.console import say
from worldsim.errors import InvalidInputError, missing_extra, unknown_name
from worldsim.progress import progress_bars

OPTIONS = {"dry_run"}
RECIPES = ("world", "policy", "reason-sft", "reason-grpo")


def train(
    context: typer.Context,
    what: Annotated[
        str, typer.Argument(help="What to train: world, policy, reason-sft or reason-grpo.", metavar="WHAT")
    ],
    device: Annotated[
        str | None, typer.Option(help="Where to train: cpu, cuda or cuda:N. \\[default: cpu, or what device= says]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
) -> None:
    r"""Train a world, policies or a critic from a dataset; the same command continues after a kill.

    Settings follow as key=value, for example:

        worldsim train world data=data/push out=worlds/push

        worldsim train world data=data/push out=worlds/conv tokenizer.name=haar_pca predictor.name=conv

        worldsim train policy data=data/demonstrations out=policies/bc checkpoints=[200,600] seeds=[0,1]

        worldsim train reason-sft data=data/push out=critics/sft items.tasks=\[arrow,puzzle,permanence]

        worldsim train reason-grpo data=data/push out=critics/grpo model=critics/sft/model

    --dry-run prints all settings with their defaults.
    """
    if what not in RECIPES:
        raise unknown_name("recipe", what, RECIPES)
    try:
        from worldsim.train.config import resolve, to_yaml
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "hydra-core", "train") from error
    for name in OPTIONS & {argument.partition("=")[0].lstrip("+") for argument in context.args}:
        raise InvalidInputError(f"{name} is an option of the command, not a setting: --{name.replace('_', '-')}.")
    config = resolve(what, context.args, device=device)
    if dry_run:
        say(to_yaml(config))
        return
    with progress_bars() as progress:
        from worldsim.train.config import run

        made = run(what, config, progress=progress)
    if what == "world":
        from worldsim.worlds.labelling import describe_labels

        say(describe_labels(made))
    say(f"Wrote {made}")
