"""The `worldsim` command: one file a verb, each a call into the library; typed errors become one clear line.

Everything a command does can be called from Python; nothing here is needed by the library.
"""

import os
import sys
from typing import NoReturn

import typer

from worldsim.cli.check import check
from worldsim.cli.collect import collect
from worldsim.cli.console import say
from worldsim.cli.import_data import import_data
from worldsim.cli.inspect import inspect
from worldsim.cli.label import label
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
app.command()(label)
app.command("import")(import_data)
app.command()(inspect)
app.command()(check)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})(train)
app.command()(report)
app.add_typer(reason)
_INTERRUPTED = 130  # what typer makes of Ctrl-C
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]  # click's base of them all, wherever typer has it from


def main() -> None:
    """Run the command line; a user-facing failure, a mistyped option included, prints one line and exits with 2."""
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # else worker processes search the working folder first
    sys.path[:] = [p for p in sys.path if p]
    try:
        code = app(standalone_mode=False) or 0
    except WorldsimError as error:
        _fail(str(error))
    except _UsageError as error:
        text = error.format_message()  # type: ignore[attr-defined]
        _fail(f"{text if text.endswith(('.', '?')) else text + '.'} See {_command_of(error)} --help.")
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        say("worldsim: interrupted. Run the same command again to continue.", error=True)
    sys.exit(code)


def _fail(message: str) -> NoReturn:
    say(f"worldsim: {message}", error=True, style="red")
    sys.exit(2)


def _command_of(error: Exception) -> str:
    """The command, as typed, that an error of usage belongs to."""
    context = getattr(error, "ctx", None)
    return "worldsim" if context is None else str(context.command_path)
