"""How kernels are compiled, by Numba, and where compiled ones are kept from process to process."""

from __future__ import annotations

import gc
import hashlib
import os
import stat
import tempfile
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numba
from numba import config
from numba import prange as prange  # for the kernels: their one source of compiler names
from numba.core.event import Listener, install_listener, register
from numba.extending import register_jitable

from gpubackprop.kernels.cpu.link import Linked
from gpubackprop.kernels.cpu.share import MAIN as MAIN
from gpubackprop.kernels.cpu.share import shared

# All of fastmath but nnan and ninf: a NaN must come out where one went in, or training hides it.
_FLAGS = {"reassoc", "contract", "arcp", "nsz", "afn"}
_OPTIONS: dict[str, Any] = {"fastmath": _FLAGS, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
_PART: dict[str, Any] = {**_OPTIONS, "no_cpython_wrapper": True, "pipeline_class": Linked}


class Launched:
    """What Python calls: compiled when it is first called, with the number of threads and MAIN behind its arguments."""

    def __init__(self, function: Callable[..., None], alone: bool) -> None:
        self.name, self.py_func, self.alone = function.__name__, function, alone

    @cached_property
    def compiled(self) -> Any:
        """The function to call."""
        return compiled(shared(self.py_func, self.alone))


def parallel(function: Callable[..., None]) -> Launched:
    """Decorate `f(*arrays and numbers, threads)`, whose outer loop is `for t in prange(threads)`."""
    return Launched(function, alone=False)


def single(function: Callable[..., None]) -> Launched:
    """Decorate `f(*arrays and numbers)`, which is launched on one thread, always."""
    return Launched(function, alone=True)


def serial(function: Callable[..., Any]) -> Any:
    """Decorate a function that the others call: on 1-D slices, since those become vector instructions."""
    return numba.njit(**_PART)(function)


def inline(function: Callable[..., Any]) -> Any:
    """Decorate a function of single numbers: it becomes part of each loop that calls it."""
    return register_jitable(forceinline=True, pipeline_class=Linked)(
        function
    )  # by LLVM, which on its own stops at some length


def compiled(function: Callable[..., Any]) -> Any:
    """What compiled code makes of a function, kept from process to process."""
    before = config.CACHE_DIR
    if FOLDER is not None:  # the user's own functions keep theirs
        config.CACHE_DIR = str(FOLDER)
    try:
        made = numba.njit(cache=FOLDER is not None, **_OPTIONS)(function)
    finally:
        config.CACHE_DIR = before
    if FOLDER is not None:
        made._cache = _Careful(made._cache)
    return made


on_miss: Callable[[], None] | None = None  #: called before something is compiled that was not kept


class _Careful:
    """Numba's cache of a function, of which nothing stops a training: neither a damaged file nor a full disk."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, *args: Any) -> Any:
        """What is kept; None, so that it is compiled, where that cannot be read."""
        found = None
        with suppress(Exception):  # unpickling raises anything
            found = self._cache.load_overload(*args)
        if found is None and on_miss is not None:
            on_miss()
        return found

    def save_overload(self, *args: Any) -> None:
        """Keep it, where that can be done."""
        with suppress(Exception):
            self._cache.save_overload(*args)


class _Pause(Listener):
    """No garbage is collected while something is compiled: going over all that a compiler holds took a fifth of it."""

    def __init__(self) -> None:
        self.depth, self.enabled = 0, False

    def on_start(self, event: Any) -> None:
        if self.depth == 0:
            self.enabled = gc.isenabled()
            gc.disable()
        self.depth += 1

    def on_end(self, event: Any) -> None:
        self.depth -= 1
        if self.depth == 0 and self.enabled:
            gc.enable()


register("numba:compile", _Pause())


class _Announcement(Listener):
    """Says once that something is being compiled: a start takes seconds then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say: Callable[[str], None] | None = say

    def on_start(self, event: Any) -> None:
        if self.say is not None:
            kept = f"kept in {FOLDER}" if FOLDER else "not kept: no cache folder is writeable, see GPUBACKPROP_CACHE"
            self.say(f"compiling kernels for this processor, some seconds, {kept}")
            self.say = None

    def on_end(self, event: Any) -> None:
        pass


def announcing(say: Callable[[str], None]) -> AbstractContextManager[Any]:
    """Inside it `say` is told in a line, once, when something has to be compiled."""
    return install_listener("numba:compile", _Announcement(say))


def _folder() -> Path | None:
    """Where compiled kernels lie, None where nothing can be written.

    GPUBACKPROP_CACHE, or the user's cache folder, or where that cannot be written the user's own below the temporary
    one; in it one folder for each state of these sources, because Numba looks at the file of a function, not at those
    of the functions that became part of it. A warning says when it is not the one that was asked for.
    """
    asked = os.environ.get("GPUBACKPROP_CACHE")
    home = os.path.abspath(os.path.expanduser(asked or os.environ.get("XDG_CACHE_HOME") or "~/.cache"))
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    found, reason = None, ""
    for place in (lambda: Path(home), _own_temporary):
        try:
            folder = place() / "gpubackprop" / "kernels" / digest.hexdigest()[:16]
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK):
                raise PermissionError(f"{folder} is not writable")
        except OSError as error:
            reason = reason or str(error)
            continue
        found = folder
        break
    if asked and reason:
        instead = f"they are kept in {found}" if found else "they are compiled anew at every start"
        line = f"GPUBACKPROP_CACHE={asked}: kernels cannot be kept there ({reason}); {instead}"
        warnings.warn(line, RuntimeWarning, stacklevel=2)
    return found


def _own_temporary() -> Path:
    """A folder that nobody else can write: what lies in it is run. Raises PermissionError where it is another's."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"gpubackprop-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not this user's alone")
    return folder


FOLDER = _folder()
