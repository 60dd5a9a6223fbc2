"""Compiling functions that only other compiled functions call: no machine code is made of them by themselves.

Numba makes it of each, though the callers have them linked in as LLVM's code, and most of them inlined. That was a
fifth of the time of a first start.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.environment import Environment
from numba.core.typed_passes import NativeLowering


class _Library(JITCodeLibrary):
    """LLVM's optimized code of a function."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """0: nothing here has an address."""
        self._ensure_finalized()
        return 0


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """As Numba's, into such a library."""

    _name = "lowering_for_linking"

    def run_pass(self, state: Any) -> bool:
        """Lower the function that `state` holds."""
        codegen = state.targetctx.codegen()
        state.library = _Library(codegen, state.func_id.func_qualname)
        found, codegen.set_env = codegen.set_env, _no_environment
        try:
            return bool(super().run_pass(state))
        finally:
            codegen.set_env = found


def _no_environment(name: str, environment: Environment) -> None:
    """An environment is for functions that Python calls."""


class Linked(CompilerBase):
    """The compiler of functions that are linked into others."""

    def define_pipelines(self) -> list[Any]:
        """Numba's own, but for its last pass."""
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [(_Lowering if step is NativeLowering else step, words) for step, words in manager.passes]
        manager.finalize()
        return [manager]
