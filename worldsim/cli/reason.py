"""`worldsim reason ...`: the commands about critics and what they are asked. Each lives in a file of its own."""

import typer

from worldsim.cli.reason_calibrate import calibrate

app = typer.Typer(
    name="reason",
    help="Critics that watch videos: calibrate one on held-out policies.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command("calibrate")(calibrate)
