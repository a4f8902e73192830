"""`asym`: the package in a shell. One file a command, imported when that command runs."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

__all__ = ["COMMANDS", "build_app", "main"]

#: Heading in the help -> command -> its sentence there. A command is the function in the module of its name.
COMMANDS: dict[str, dict[str, str]] = {
    "Read and write": {
        "inspect": "What adapters hold: modules, ranks, scale, norms, and what became of every tensor.",
        "convert": "An adapter in another library's format: PEFT, kohya, diffusers.",
        "resize": "An adapter of smaller rank.",
    },
    "Measure": {
        "doctor": "Findings that matter for one adapter, worst first.",
        "compare": "How similar A and B are over all pairs of adapters, against random subspaces.",
        "drift": "How far each factor moved from its initialization, recorded or inferred.",
        "intruders": "Singular vectors of W0 + dW that the base model does not have.",
        "share": "What adapters have in common, and what sharing or merging them would cost.",
        "ask": "One question with its null: will it forget, new directions or old, which ranks, ...",
        "report": "One HTML page with all of it, its figures beside it.",
    },
    "Guarantee": {
        "bound": "Generalization bounds of a checkpoint, from parameter count to Gaussian posterior.",
        "certify": "A certified risk, from measured losses.",
    },
    "Train and explain": {
        "finetune": "Train the paper's variants; an interrupted sweep continues.",
        "variants": "What each variant scored over seeds, and whether the paper's claims hold.",
        "advise": "Modules whose A could be frozen at random, and what that would cost.",
        "simulate": "The least-squares models, theory beside simulation.",
    },
}


class _Commands(TyperGroup):
    """A group that imports a command when it is asked for, and not to list it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        app = typer.Typer(
            add_completion=False, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
        )
        app.command(cmd_name)(getattr(import_module(f"asym_analysis.cli.{cmd_name}"), cmd_name))
        return typer.main.get_command(app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for heading, commands in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))


def build_app() -> typer.Typer:
    """The command-line application with every command."""
    app = typer.Typer(
        name="asym",
        cls=_Commands,
        help="What the two factors of a LoRA adapter learned, whether A needed training, and what is guaranteed.",
        rich_markup_mode=None,  # plain text breaks fewer lines at 80 columns, and rich is slow to import
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run `asym`. Exit code 0: done; 1: a usage or input error, in one sentence; 2: done, part of the input refused."""
    os.environ.setdefault("TQDM_LEAVE", "")  # progress bars vanish when they are done
    from asym_analysis.errors import AdapterError

    given = sys.argv[1:] if arguments is None else arguments
    try:
        code = build_app()(args=given or ["--help"], prog_name="asym", standalone_mode=False)
    except typer.TyperException as error:
        # Usage errors carry a message for people; str() of them names the class first.
        code = _tell(error.format_message() if hasattr(error, "format_message") else str(error))
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except (AdapterError, OSError) as error:
        code = _tell(str(error))
    except (typer.Abort, KeyboardInterrupt):
        code = _tell("interrupted; files that were already written are complete", code=130)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(message: str, code: int = 1) -> int:
    from asym_analysis.cli.console import error

    error(message)
    return code


def _version(wanted: bool) -> bool:
    if wanted:
        import asym_analysis

        typer.echo(f"asym_analysis {asym_analysis.__version__}")
        raise typer.Exit
    return wanted


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `asym` itself."""
