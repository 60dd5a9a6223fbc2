"""How the threads share a loop: Numba's pool of threads, which call the compiled function again, each for its part.

Numba's own `prange` compiles the body of a loop apart from its function, several times over; that was two thirds of the
time of a first start. So here `for t in prange(n)` becomes a plain loop over the parts that are the caller's to do.
"""

from __future__ import annotations

import ast
import ctypes
import inspect
import os
import textwrap
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: Who is called from Python. A thread of the pool has the loop's number in its upper half, the part's in the lower.
MAIN = -1
#: The name's end of the function that gets a pointer to the arguments of another, all but `who`, one behind the other
#: as in a struct in C, and returns 0 unless it raised.
WHOLE = ".whole"
_BYTE, _SIZE = ir.IntType(8).as_pointer(), ir.IntType(64)

#: 1 in a forked child, whose pool stayed with its parent: who is called does all parts of a loop then, one by one. What
#: comes out is the same, bit for bit. Compiled functions look at it by name, so that they can be cached.
ALONE = ctypes.c_int64(0)
_ALONE = "gpubackprop_alone"
llvmlite.binding.add_symbol(_ALONE, ctypes.addressof(ALONE))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: setattr(ALONE, "value", 1))


@intrinsic
def parts(context: Any, count: Any, threads: Any, who: Any, loop: Any) -> Any:
    """range(...) of the parts of loop number `loop` that `who` has to do; MAIN has them done by several threads."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        count, threads, who, loop = args
        mine = builder.icmp_signed("==", builder.ashr(who, _SIZE(32)), loop)
        main = builder.icmp_signed("==", who, _SIZE(MAIN))
        pool = builder.icmp_signed("==", builder.load(_alone(builder.module)), _SIZE(0))
        several = builder.and_(main, builder.and_(pool, builder.icmp_signed(">", threads, _SIZE(1))))
        start = builder.select(mine, builder.and_(who, _SIZE(2**32 - 1)), _SIZE(0))
        alone = builder.select(builder.and_(main, builder.not_(several)), count, _SIZE(0))
        with builder.if_then(several, likely=False):
            _start(builder, count, loop)
        found = cgutils.create_struct_proxy(types.range_state64_type)(context, builder)
        found.start, found.step = start, _SIZE(1)
        found.stop = builder.select(mine, builder.add(start, _SIZE(1)), alone)
        return found._getvalue()

    size = types.int64
    return types.range_state64_type(size, size, size, size), generate


def _alone(module: Any) -> Any:
    return module.globals.get(_ALONE) or ir.GlobalVariable(module, _SIZE, _ALONE)


def _start(builder: Any, count: Any, loop: Any) -> None:
    """Numba's pool calls the function under construction `count` times, with its own arguments but the last, `who`."""
    module, function = builder.module, builder.function
    kept = ir.LiteralStructType([_SIZE, *(each.type for each in function.args[:-1])])
    data = cgutils.alloca_once(builder, kept)
    builder.store(loop, cgutils.gep_inbounds(builder, data, 0, 0))
    for i, each in enumerate(function.args[:-1], 1):
        builder.store(each, cgutils.gep_inbounds(builder, data, 0, i))
    # As if for an array of bytes at address 0: the place of an element is its number.
    place = cgutils.alloca_once_value(builder, ir.Constant(_BYTE, None))
    sizes, steps = cgutils.alloca_once_value(builder, count), cgutils.alloca_once_value(builder, _SIZE(1))
    kind = ir.FunctionType(ir.VoidType(), [_BYTE] * 5 + [_SIZE] * 3)
    parallel_for = cgutils.get_or_insert_function(module, kind, "numba_parallel_for")
    available = builder.call(cgutils.get_or_insert_function(module, ir.FunctionType(_SIZE, []), "get_num_threads"), [])
    wanted = builder.select(builder.icmp_signed("<", count, available), count, available)
    pointers = [_part(module, function, kept), place, sizes, steps, data]
    builder.call(parallel_for, [builder.bitcast(p, _BYTE) for p in pointers] + [_SIZE(0), _SIZE(1), wanted])


@intrinsic
def whole(context: Any) -> Any:
    """Beside the function under construction there is one that takes all its arguments from memory: see WHOLE."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = builder.function
        entry = ir.Function(builder.module, ir.FunctionType(ir.IntType(32), [_BYTE]), function.name + WHOLE)
        inside = ir.IRBuilder(entry.append_basic_block("entry"))
        kept = ir.LiteralStructType([each.type for each in function.args[2:-1]])
        data = inside.bitcast(entry.args[0], kept.as_pointer())
        own = [inside.load(cgutils.gep_inbounds(inside, data, 0, i)) for i in range(len(kept.elements))]
        arguments = [*_results(inside, function.args), *own, _SIZE(MAIN)]
        inside.ret(inside.call(function, arguments, attrs=("noinline",)))
        return context.get_dummy_value()

    return types.void(), generate


def _results(builder: Any, args: Any) -> list[Any]:
    """Room for what every function of Numba's writes before its arguments: its result, None, and what it raised."""
    return [cgutils.alloca_once(builder, each.type.pointee) for each in args[:2]]


def _part(module: Any, function: Any, kept: Any) -> Any:
    """What the pool calls, in the form of a NumPy ufunc's loop."""
    name = f"{function.name}.part"
    if name in module.globals:
        return module.globals[name]
    size = _SIZE.as_pointer()
    part = ir.Function(module, ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), size, size, _BYTE]), name)
    part.linkage = "internal"
    builder = ir.IRBuilder(part.append_basic_block("entry"))
    places, sizes, _, data = part.args
    first = builder.ptrtoint(builder.load(places), _SIZE)
    data = builder.bitcast(data, kept.as_pointer())
    loop, *args = [builder.load(cgutils.gep_inbounds(builder, data, 0, i)) for i in range(len(kept.elements))]
    results = _results(builder, function.args)
    with cgutils.for_range(builder, builder.load(sizes)) as each:
        who = builder.or_(builder.shl(loop, _SIZE(32)), builder.add(first, each.index))
        builder.call(function, [*results, *args[2:], who])
    builder.ret_void()
    return part


class _Loops(ast.NodeTransformer):
    """`for t in prange(n)` becomes `for t in parts(n, threads, who, number)`, and there a thread of the pool ends."""

    def __init__(self, threads: str) -> None:
        self.threads, self.number = threads, 0

    def visit_For(self, loop: ast.For) -> Any:
        """The two statements that stand for a loop."""
        if ast.unparse(loop.iter).startswith("prange("):
            count = ast.unparse(loop.iter)[len("prange(") : -1]
            own, end = _statements(
                f"for t in __parts({count}, {self.threads}, __who, {self.number}): pass\n"
                f"if __who >> 32 == {self.number}: return",
                loop,
            )
            own.target, own.body = loop.target, loop.body
            self.number += 1
            return [own, end]
        return _once(loop)

    def visit_Assign(self, node: ast.Assign) -> Any:
        """Names are every thread's own, elements of arrays are not."""
        return _once(node) if any(isinstance(target, ast.Subscript) for target in node.targets) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        """As assignments."""
        return _once(node) if isinstance(node.target, ast.Subscript) else node

    def visit_Expr(self, node: ast.Expr) -> Any:
        """A call, which is made for what it writes."""
        return _once(node)


def _once(statement: ast.stmt) -> Any:
    """Outside of the shared loops, what writes is done once."""
    (guarded,) = _statements(f"if __who == {MAIN}: pass", statement)
    guarded.body = [statement]
    return guarded


def _statements(source: str, place: ast.stmt) -> list[Any]:
    found = ast.parse(source).body
    for statement in found:
        for node in ast.walk(statement):
            ast.copy_location(node, place)
    return found


def shared(function: Callable[..., None], alone: bool = False) -> Callable[..., None]:
    """`function` with its loops over `prange` shared among the threads that its last argument counts; with `whole`, and
    one more argument, `who`: see MAIN. `alone`: it has no such argument and loops, and gets one."""
    lines, first = inspect.getsourcelines(function)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    definition = tree.body[0]
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    arguments = definition.args.args
    arguments += [ast.arg("__threads")] * alone + [ast.arg("__who")]
    _Loops(arguments[-2].arg).visit(definition)
    definition.body += ast.parse("__whole()").body
    # What the function has from the function around it comes in by a function around it.
    free = function.__code__.co_freevars
    around = ast.parse(f"def __around({', '.join(free)}):\n  return {function.__name__}").body[0]
    assert isinstance(around, ast.FunctionDef)
    around.body.insert(0, definition)
    tree.body = [around]
    ast.increment_lineno(ast.fix_missing_locations(tree), first - 1)
    names = {**function.__globals__, "__parts": parts, "__whole": whole}
    exec(compile(tree, function.__code__.co_filename, "exec"), names)
    made: Callable[..., None] = names["__around"](*(cell.cell_contents for cell in function.__closure__ or ()))
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    return made
