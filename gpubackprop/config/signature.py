"""A constructor's typed signature as the schema of its options."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, Strict, TypeAdapter

from gpubackprop.errors import UsageError
from gpubackprop.registry import GIVEN, INFERRED, Range, Registry

MISSING: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Pattern:
    """Texts that a `str` may be, in a signature: all of `regex` matches; `words` says what that means."""

    regex: str
    words: str


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor: an option of a config, unless it is given."""

    name: str
    annotation: Any
    default: Any = MISSING  #: the default, or MISSING
    factory: Callable[[], Any] | None = None  #: makes the default of a dataclass's field
    positional: bool = True
    variadic: bool = False  #: `*layers`: an option that takes a list
    inferred: bool = False
    given: bool = False

    @property
    def required(self) -> bool:
        """Whether a config has to say it."""
        return self.default is MISSING and self.factory is None and not self.inferred and not self.given

    def fallback(self) -> Any:
        """The value of an option that the config leaves out."""
        if self.factory is not None:
            return self.factory()
        return None if self.default is MISSING else self.default


@cache
def arguments(cls: type) -> dict[str, Argument]:
    """The arguments of a class's constructor (or a dataclass's fields), by name and in order.

    Raises UsageError for a signature whose annotations cannot be read.
    """
    try:
        constructor: Any = inspect.getattr_static(cls, "__init__")
        hints = typing.get_type_hints(constructor, include_extras=True)
        parameters = inspect.signature(cls).parameters.values()
    except (NameError, TypeError, ValueError) as error:
        raise UsageError(f"the signature of {cls.__module__}.{cls.__qualname__} cannot be read: {error}") from error
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    factories: dict[str, Any] = {
        field.name: field.default_factory for field in fields if field.default_factory is not dataclasses.MISSING
    }
    result = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        annotation, default = hints.get(parameter.name, Any), parameter.default
        if factory := factories.get(parameter.name):
            default = MISSING
        variadic = parameter.kind is parameter.VAR_POSITIONAL
        if variadic:
            annotation, factory = types.GenericAlias(list, (annotation,)), list
        extras = unwrap(annotation)[1]
        result[parameter.name] = Argument(
            parameter.name,
            annotation,
            default,
            factory,
            positional=parameter.kind is not parameter.KEYWORD_ONLY,
            variadic=variadic,
            inferred=INFERRED in extras,
            given=GIVEN in extras,
        )
    return result


def options_of(cls: type) -> dict[str, Argument]:
    """The arguments of `cls` that a config may give."""
    return {name: argument for name, argument in arguments(cls).items() if not argument.given}


def first_option(cls: type) -> str | None:
    """The option that the short form `NAME: value` gives: the first one that is not inferred."""
    return next((name for name, argument in options_of(cls).items() if not argument.inferred), None)


def unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """`Annotated[T, …]` -> (T, what stands behind it)."""
    if get_origin(annotation) is Annotated:
        core, *extras = get_args(annotation)
        return core, tuple(extras)
    return annotation, ()


def alternatives(annotation: Any) -> list[Any]:
    """The arms of a union, flattened; any other annotation is its own only arm."""
    core, extras = unwrap(annotation)
    if get_origin(core) not in (Union, types.UnionType):
        return [annotation]
    bounds = [extra for extra in extras if isinstance(extra, Range)]
    arms = [arm for each in get_args(core) for arm in alternatives(each)]
    return [Annotated[arm, *bounds] if bounds and unwrap(arm)[0] in (int, float) else arm for arm in arms]


def item_of(annotation: Any) -> Any:
    """The annotation of the entries where `annotation` is a list, else None."""
    core, _ = unwrap(annotation)
    if core is list or get_origin(core) in (list, Sequence):
        return (get_args(core) or (Any,))[0]
    return None


def fits(value: Any, annotation: Any) -> bool:
    """Whether a node's value is of the kind that an annotation is about: what is wrong then lies deeper."""
    arms = alternatives(annotation)
    if len(arms) > 1:
        return any(fits(value, arm) for arm in arms)
    core, _ = unwrap(annotation)
    origin = get_origin(core)
    if core in Registry.by_base:
        return isinstance(value, str | dict)
    if dataclasses.is_dataclass(core) or core is dict or origin in (dict, Mapping):
        return isinstance(value, dict)
    if item_of(annotation) is not None:
        return isinstance(value, list)
    if core is tuple or origin is tuple:
        sizes = get_args(core)
        return isinstance(value, list) and (not sizes or ... in sizes or len(sizes) == len(value))
    if core is None or core is type(None):
        return value is None
    if origin is Literal:
        return value is not None and type(value) in {type(each) for each in get_args(core)}
    if core in (int, float):
        return isinstance(value, int if core is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, core) if core in (bool, str) else True


def leaf(annotation: Any) -> TypeAdapter[Any]:
    """A pydantic adapter for an annotation without components.

    Scalars are strict, as YAML has types of its own: `"3"` is no number and `true` is no 1; but an
    integer is a number, and a list is a tuple.
    """
    return _adapter(_pydantic(annotation))


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)


_STRICT = {
    bool: Annotated[bool, Strict()],
    int: Annotated[int, Strict()],
    str: Annotated[str, Strict()],
    float: Annotated[float, Strict(), Field(allow_inf_nan=False)],
}


def _pydantic(annotation: Any) -> Any:
    core, extras = unwrap(annotation)
    if get_origin(core) is not None and get_origin(core) is not Literal:
        inner = tuple(each if each is ... else _pydantic(each) for each in get_args(core))
        is_union = get_origin(core) in (Union, types.UnionType)
        core = Union[inner] if is_union else get_origin(core)[inner]  # noqa: UP007  # the arms are values here
    else:
        core = _STRICT.get(core, core)
    for extra in extras:
        if isinstance(extra, Range):
            core = Annotated[core, Field(ge=extra.ge, gt=extra.gt, le=extra.le, lt=extra.lt)]
        elif isinstance(extra, Pattern):
            core = Annotated[core, Field(pattern=f"^(?:{extra.regex})$")]
        elif extra not in (INFERRED, GIVEN):
            core = Annotated[core, extra]
    return core


_NOUNS = {bool: "true or false", int: "an integer", float: "a number", str: "a text", type(None): "null"}


def words(annotation: Any) -> str:
    """What an annotation allows, as a noun: "an integer (at least 1)", "one of float32, float64"."""
    arms = alternatives(annotation)
    if len(arms) > 1:
        *many, last = dict.fromkeys(words(arm) for arm in arms)
        return f"{', '.join(many)} or {last}" if many else last
    core, extras = unwrap(annotation)
    if pattern := next((extra for extra in extras if isinstance(extra, Pattern)), None):
        return pattern.words
    if bounds := range_words(annotation):
        return f"{_NOUNS.get(core, core.__name__)} ({bounds})"
    if core in _NOUNS or core is None:
        return _NOUNS.get(core, "null")
    if get_origin(core) is Literal:
        values = get_args(core)
        return f"{'one of ' if len(values) > 1 else ''}{', '.join(map(str, values))}"
    if (item := item_of(annotation)) is not None:
        return f"a list{_of(item)}"
    if get_origin(core) is tuple or core is tuple:
        items = [each for each in get_args(core) if each is not ...]
        count = f" of {len(items)}" if items and ... not in get_args(core) else ""
        return f"a list{count}{_of(items[0]).replace(' of ', ' ' if count else ' of ') if len(set(items)) == 1 else ''}"
    if core in Registry.by_base:
        return a(Registry.by_base[core].kind)
    if dataclasses.is_dataclass(core) and isinstance(core, type):
        return f"a mapping ({', '.join(options_of(core))})"
    if core is dict or get_origin(core) in (dict, Mapping):
        return "a mapping"
    return getattr(core, "__name__", str(core))


def _of(item: Any) -> str:
    """ " of integers (at least 1)" for a list of such, where that can be said in a few words."""
    noun, bracket, bounds = words(item).partition(" (")
    simple = unwrap(item)[0] in (int, float, str, *Registry.by_base)
    return f" of {noun.split(' ', 1)[1]}s{bracket}{bounds}" if simple else ""


def a(noun: str) -> str:
    """`noun` with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def range_words(annotation: Any) -> str:
    """The bounds of a number: "at least 0 and less than 1", or an empty string."""
    bounds = next((extra for extra in unwrap(annotation)[1] if isinstance(extra, Range)), Range())
    named = {"at least": bounds.ge, "greater than": bounds.gt, "at most": bounds.le, "less than": bounds.lt}
    return " and ".join(f"{word} {bound:g}" for word, bound in named.items() if bound is not None)
