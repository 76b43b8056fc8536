"""Options that several commands share: each has one name, one range and one help text."""

from typing import Annotated

import typer

from worldsim.limits import MAX_SEED, MAX_TIMEOUT_S

WorldName = Annotated[str, typer.Option(help="World folder, or the name of a shipped world.")]
Env = Annotated[
    str | None,
    typer.Option(
        help="Environment: push, a Gymnasium id, module:id where a package registers it, or module:function that makes "
        "one. \\[default: push; for a world, the one of its task]"
    ),
]
Imports = Annotated[
    list[str] | None,
    typer.Option("--import", help="Module or file to import first, which registers environments; repeatable."),
]
Success = Annotated[
    str | None,
    typer.Option(
        help="When the task is solved, where the environment does not tell: 'info.coverage > 0.95', "
        "'observation.NAME < 1', 'reward == 1', or module:function of (observation, info, reward). \\[default: for a "
        "world, the rule its data was recorded with]"
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Everything random follows from it.")]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.001,
        max=MAX_TIMEOUT_S,
        help="Seconds after which a policy, or a call into the environment, counts as hung.",
    ),
]
Device = Annotated[str, typer.Option(help="Where tensors are computed: cpu, cuda or cuda:N.")]
Dtype = Annotated[
    str, typer.Option(help="Of the weights: float32, bfloat16 or float16. \\[default: as stored]", show_default=False)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Try a little, say what the rest would do and cost, and stop.")]
