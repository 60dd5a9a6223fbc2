"""The command line: `gpubackprop COMMAND`. Commands parse arguments and print; the work is done on the floors below.

Only typer is imported at the start, so `--help` answers at once; each command imports what it needs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from gpubackprop.errors import GpubackpropError

app = typer.Typer(
    name="gpubackprop",
    help="Train neural networks from one YAML file, on a CPU or an NVIDIA GPU.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help and one-line errors: no boxes, nothing cut to the terminal's width
    pretty_exceptions_enable=False,
)


@app.callback()
def gpubackprop(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Train neural networks from one YAML file, on a CPU or an NVIDIA GPU."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = given[: given.index("--")] if "--" in given else given
    sys.exit(_run([word for word in given if word != "--debug"], debug="--debug" in words))


def _run(arguments: list[str], debug: bool) -> int:
    # Registers the commands, in the order of --help.
    from gpubackprop.cli import config, train, use  # noqa: F401

    command = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name="gpubackprop", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except GpubackpropError as error:
        if debug:
            raise
        return complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output has gone (`… | head`); Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of click's, whose messages are for users
            if debug:
                raise
            return complain(f"internal error: {type(error).__name__}: {error}; --debug shows where", 1)
        return complain(error.format_message(), getattr(error, "exit_code", 2))


def complain(message: str, code: int) -> int:
    """Print an error on stderr, a line per problem, as it is; return the exit code."""
    for line in message.splitlines():
        print(f"error: {line}" if code != 2 or ":" not in line.split(" ")[0] else line, file=sys.stderr)
    return code


def note(line: str) -> None:
    """Something the user should know that is not the answer: stderr."""
    print(line, file=sys.stderr, flush=True)
