"""`asym`: the package in a shell. One file a command; each is imported only as far as its options need."""

from __future__ import annotations

import sys
from importlib import import_module

import click
import typer

from asym_analysis.cli.console import INPUT_ERROR, errors
from asym_analysis.errors import AdapterError

__all__ = ["build_app", "main"]

COMMANDS: tuple[str, ...] = ("compare", "report")


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
    except click.ClickException as error:
        errors.print(f"[bold red]asym:[/] {error.format_message()}", soft_wrap=True, highlight=False)
        code = INPUT_ERROR
    except (AdapterError, OSError) as error:
        errors.print(f"[bold red]asym:[/] {str(error).replace('[', chr(92) + '[')}", soft_wrap=True, highlight=False)
        code = INPUT_ERROR
    except (click.Abort, KeyboardInterrupt):
        errors.print("asym: interrupted; what was written before is whole", highlight=False)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
