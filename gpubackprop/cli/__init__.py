"""The command line: `gpubackprop COMMAND`. Commands parse arguments and print; the work is done on the floors below.

Only typer is imported at the start, so `--help` answers at once; each command imports what it needs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence

import typer

import gpubackprop as package
from gpubackprop.errors import ConfigError, GpubackpropError, InterruptedRun

app = typer.Typer(
    name="gpubackprop",
    help="Train neural networks from one YAML file, on a CPU or an NVIDIA GPU.",
    add_completion=False,
    rich_markup_mode=None,  # plain help and one-line errors: no boxes, nothing cut to the terminal's width
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gpubackprop {package.__version__}")
        raise typer.Exit


@app.callback()
def gpubackprop(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", is_eager=True, callback=_version, help="Show the version."),
) -> None:
    """Train neural networks from one YAML file, on a CPU or an NVIDIA GPU."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code."""
    warnings.formatwarning = lambda message, *_, **__: (
        f"warning: {message}\n"
    )  # one line, without its place in the code
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    words, literal = given[:end], given[end:]
    sys.exit(_run([word for word in words if word != "--debug"] + literal, debug="--debug" in words))


def _run(arguments: list[str], debug: bool) -> int:
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and shells' background jobs ask for
                signal.signal(number, _stop)
        # Registers the commands, in the order of --help.
        from gpubackprop.cli import config, train, use, watch  # noqa: F401

        command = typer.main.get_command(app)
        if not arguments:
            with contextlib.redirect_stdout(sys.stderr):
                command.main(args=["--help"], prog_name="gpubackprop", standalone_mode=False)
            return 2
        code = command.main(args=arguments, prog_name="gpubackprop", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except _Stopped as stopped:
        return complain(str(stopped), stopped.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (`… | head`); Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        return _explain(error)


def _explain(error: Exception) -> int:
    """Say what went wrong in lines for users, and return the exit code."""
    if isinstance(error, ConfigError):
        for problem in error.problems:
            note(str(problem))
        return error.exit_code
    if isinstance(error, InterruptedRun):
        note(str(error))
        return error.exit_code
    if isinstance(error, GpubackpropError):
        return complain(str(error), error.exit_code)
    if hasattr(error, "format_message"):  # click's, about the command line
        return complain(error.format_message(), getattr(error, "exit_code", 2))
    if isinstance(error, OSError) and error.filename:
        return complain(f"{error.filename}: {error.strerror}", 1)
    if isinstance(error, MemoryError):
        return complain(f"out of memory: {error}; try a smaller data.batch_size", 1)
    return complain(f"internal error: {type(error).__name__}: {error}; --debug shows where", 1)


class _Stopped(BaseException):
    """A signal while nothing has to be saved; training has a handler of its own. Not an error that click knows."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted" if number == signal.SIGINT else "terminated")
        self.exit_code = 128 + number


def _stop(number: int, frame: object) -> None:
    raise _Stopped(number)


def complain(message: str, code: int) -> int:
    """Print an error on stderr as one line, whatever the terminal's width; return the exit code."""
    note("error: " + " ".join(message.split()))
    return code


def note(line: str) -> None:
    """Something the user should know that is not the answer: stderr, while somebody reads it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:  # `2>&1 | head`: a training goes on, and has its train.log
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
