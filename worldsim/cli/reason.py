"""`worldsim reason ...`: the commands about critics and what they are asked. Each lives in a file of its own."""

import typer

from worldsim.cli.reason_calibrate import calibrate
from worldsim.cli.reason_eval import evaluate
from worldsim.cli.reason_items import items

app = typer.Typer(
    name="reason",
    help="Critics that watch videos: calibrate one on held-out policies, examine one, write questions to look at.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command("calibrate")(calibrate)
app.command("eval")(evaluate)
app.command("items")(items)
