"""`asym`: the package in a shell. One file a command; each is imported only as far as its options need."""

from __future__ import annotations

import sys
from importlib import import_module

import typer
from rich.markup import escape

from asym_analysis.cli.console import INPUT_ERROR, errors
from asym_analysis.errors import AdapterError

__all__ = ["build_app", "main"]

COMMANDS: tuple[str, ...] = (
    "inspect",
    "compare",
    "drift",
    "intruders",
    "share",
    "bound",
    "certify",
    "finetune",
    "variants",
    "advise",
    "simulate",
    "report",
)


def build_app() -> typer.Typer:
    """The command-line application with every command registered."""
    app = typer.Typer(
        name="asym",
        help="What the two factors of a LoRA adapter learned, whether A needed training, and what is guaranteed.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in COMMANDS:
        import_module(f"asym_analysis.cli.{command}").register(app)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run `asym`. Exit code 0: done; 1: a usage or input error, in one sentence; 2: done, part of the input refused."""
    try:
        code = build_app()(args=arguments, standalone_mode=False)
    except typer.TyperException as error:
        # Usage errors carry a message for people; str() of them names the class first.
        code = _tell(error.format_message() if hasattr(error, "format_message") else str(error))
    except (AdapterError, OSError) as error:
        code = _tell(str(error))
    except (typer.Abort, KeyboardInterrupt):
        code = _tell("interrupted; what was written before is whole", code=130)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(message: str, code: int = INPUT_ERROR) -> int:
    errors.print(f"[bold red]asym:[/] {escape(message)}", soft_wrap=True, highlight=False)
    return code
