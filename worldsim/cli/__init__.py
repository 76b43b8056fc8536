"""The `worldsim` command: thin verbs that wire rooms together and turn typed errors into one clear line.

Everything a command does can be called from Python; nothing here is needed by the library.
"""

import sys

import typer
from rich.console import Console

from worldsim.cli.collect import collect
from worldsim.cli.plan import plan
from worldsim.cli.reason import app as reason
from worldsim.cli.report import report
from worldsim.cli.train import train
from worldsim.cli.triage import triage
from worldsim.errors import WorldsimError

app = typer.Typer(
    name="worldsim",
    help="Rank robot policy checkpoints, and plan robot actions, inside learned world models.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    epilog="Start with: worldsim triage   (ranks the shipped checkpoints in the shipped world, in about a minute)",
)
app.command()(triage)
app.command()(plan)
app.command()(collect)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})(train)
app.command()(report)
app.add_typer(reason)
_INTERRUPTED = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Run the command line; a user-facing failure prints its message and exits with 2.

    Modules in the current folder can be named as ``module:function``, as with ``python -m``.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        app()
    except WorldsimError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]worldsim:[/] {_plain(str(error))}")
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != _INTERRUPTED:
            raise
        Console(stderr=True).print("worldsim: interrupted. Run the same command again to continue.")
        sys.exit(_INTERRUPTED)


def _plain(text: str) -> str:
    """Text in which brackets are not taken for markup."""
    return text.replace("[", "\\[")
