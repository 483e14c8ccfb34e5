"""``coin-ray``: one thin file a verb, imported only when that verb is called.

Help and completion list the verbs without importing any of them, so they answer at once.
"""

from __future__ import annotations

import coin_ray.cli.working_folder  # noqa: F401  before all that could come from there

# isort: split
import errno
import importlib
import warnings
from typing import Any, cast

import typer
import typer.core

from coin_ray import safe
from coin_ray.cli.screen import ending
from coin_ray.cli.screen.output import in_utf8, never_fail, say
from coin_ray.errors import NOT_TEXT, RENAME, UserError, of_system

VERBS = {
    "sweep": "Run a study: every cell that is not finished yet, then the table.",
    "submit": "Run a study as a job of a Ray cluster that is elsewhere.",
    "plan": "Say what a study would run and cost, before anything runs.",
    "status": "Say what runs, has finished, has failed or is missing.",
    "why": "Say why a cell or a stage is not in the store.",
    "diff": "In what two cells, levels or studies differ.",
    "paper": "Every table and figure of the paper: run what is missing, and the verdicts.",
    "report": "Tables, figures and pages of a study that ran.",
    "headroom": "Ceilings: how much of the gap to the truth each stage holds. Uses labels.",
    "figure": "Pictures of what a study made of its images.",
    "ui": "Open MLflow over the runs of a workspace.",
    "segment": "Find the nuclei of slides and tiles; needs no study.",
    "export": "Write a trained student to one file.",
    "evaluate": "Compare predicted label maps with true ones.",
    "pretrain": "Train the built-in small models.",
    "ucis": "Coarse masks: train the models that make them.",
    "track": "The tracker: replay the journals into MLflow.",
    "store": "The store of stages: ls, gc, verify.",
    "models": "Weights: list, fetch, add, verify.",
    "data": "Data sets: list, fetch, check, convert.",
    "schema": "Print the JSON Schema of studies, for editors.",
    "doctor": "Check this installation.",
}
"""Verb -> its line in the help; each is a module of the same name in ``verbs``."""
GONE = {"predict": "coin-ray segment IMAGES --from STUDY[:LEVEL] --out DIR"}
"""Verb of an earlier version -> the command that does it now."""


_OF_TYPER = (typer.Exit, typer.Abort, cast("type[Exception]", typer.BadParameter.__mro__[2]))
"""Exits and mistyped options; the last is the base of the latter, wherever a version keeps it."""


class Verbs(typer.core.TyperGroup):
    """A group that imports a verb when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in VERBS:
            return None
        if cmd_name in self.commands:
            return self.commands[cmd_name]
        return typer.core.TyperCommand(name=cmd_name, help=VERBS[cmd_name])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        verb = args[0] if args else ""
        for text in args:
            if not safe.is_text(text):
                raise UserError(NOT_TEXT, found=safe.shell(text), do=RENAME)
        if verb in GONE:
            raise UserError(f"`coin-ray {verb}` is gone", do=f"call `{GONE[verb]}`")
        if verb in VERBS and verb not in self.commands:
            self.commands[verb] = _load(verb)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Bad input, and what the machine refuses, is one message and code 2, an interruption one
        line and its signal's code, a fault of ours one line and code 70."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            say(str(error), err=True)
            raise typer.Exit(error.code) from error
        except KeyboardInterrupt as error:
            # Finished stages are in the store, so there is nothing to say but this.
            reason, code = ending.reason_and_code()
            say(f"\n{reason}; the same command continues where it stopped", err=True)
            raise typer.Exit(code) from error
        except _OF_TYPER:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # whoever read our output has seen enough; click ends without a word
            if refused := of_system(error):
                say(str(refused), err=True)
                raise typer.Exit(2) from error
            from coin_ray.cli.screen import fault

            say(fault.message(error, ctx.meta.get(fault.WORKSPACE)), err=True)
            raise typer.Exit(fault.CODE) from error


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _load(verb: str) -> Any:
    """The command of a verb: ``app`` of its module, or its function of the same name."""
    module = importlib.import_module(f"coin_ray.cli.verbs.{verb}")
    verbs = getattr(module, "app", None)
    if verbs is None:
        verbs = typer.Typer(add_completion=False)
        verbs.command()(getattr(module, verb))
    command = typer.main.get_command(verbs)
    command.name = verb
    # Completion is installed once, for the program.
    command.params = [p for p in command.params if not str(p.name).endswith("_completion")]
    return command


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and stop."),
) -> None:
    """Annotation-free cell segmentation in H&E images: ablation studies of COIN on Ray."""
    if version:
        from coin_ray import __version__

        say(f"coin-ray {__version__}")
        raise typer.Exit


def _plain_warnings() -> None:
    """Our own warnings as one line each; those of libraries as Python shows them."""
    usual = warnings.showwarning

    def show(message: Any, category: type[Warning], *rest: Any) -> None:
        if category.__module__.startswith("coin_ray"):
            say(f"warning: {message}", err=True)
        else:
            usual(message, category, *rest)

    warnings.showwarning = show  # type: ignore[assignment]


def main() -> None:
    """Entry point of the console script; exits with the command's code."""
    in_utf8()
    never_fail()
    _plain_warnings()
    with ending.one_ending():
        app(prog_name="coin-ray")
