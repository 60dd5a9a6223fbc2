"""The JSON Schema of a config, for editors: made from the signatures that the checks use."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from gpubackprop.config.config import Kinds
from gpubackprop.config.signature import (
    Argument,
    alternatives,
    first_option,
    item_of,
    leaf,
    options_of,
    unwrap,
)
from gpubackprop.registry import Registry

Schema = dict[str, Any]

#: `${VAR}` may stand for any scalar; what it reads is known when the config is loaded.
_REFERENCE: Schema = {"$ref": "#/$defs/reference"}
_REFERENCE_TEXT: Schema = {"type": "string", "pattern": r"^\$\{[A-Za-z_][A-Za-z0-9_]*(:[^}]*)?\}$"}

#: `$channels * 2` may stand for any value inside of a defined block, as `${VAR}` may.
_EXPRESSION: Schema = {"$ref": "#/$defs/expression"}
_EXPRESSION_TEXT: Schema = {"type": "string", "anyOf": [_REFERENCE, {"pattern": r"\$[A-Za-z_]"}]}

_BLOCK_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"


def json_schema(kinds: Kinds | None = None) -> Schema:
    """The schema (draft 2020-12) of a config file, with every component that is registered now."""
    kinds = kinds or Kinds.installed()
    schemas = _Schemas(kinds)
    keys = kinds.keys()
    properties = {
        key: schemas.argument(argument)
        if argument.required
        else {"anyOf": [schemas.argument(argument), {"type": "null"}]}  # a key without a value is as good as absent
        for key, argument in keys.items()
    }
    in_blocks = _Schemas(kinds, blocks=True)
    properties["extends"] = {"type": "string", "description": "A config that this one changes, relative to this file."}
    properties["define"] = {"anyOf": [in_blocks.define(), {"type": "null"}]}
    model, properties["model"] = properties["model"], {}
    required = [key for key, argument in keys.items() if argument.required]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gpubackprop config",
        "type": "object",
        # A file that extends another says parts of components only: editors check its keys, the program all of it.
        "if": {"required": ["extends"]},
        "then": {"propertyNames": {"enum": list(properties)}},
        "else": {
            "properties": properties,
            "required": required,
            "additionalProperties": False,
            # Which blocks are defined no schema can know: with `define`, any name that no layer has may be one.
            "if": {"required": ["define"]},
            "then": {"properties": {"model": in_blocks.argument(keys["model"])}},
            "else": {"properties": {"model": model}},
        },
        "$defs": {
            "reference": _REFERENCE_TEXT,
            "expression": _EXPRESSION_TEXT,
            **schemas.definitions,
            **in_blocks.definitions,
        },
    }


class _Schemas:
    """Schemas of annotations; components go to `definitions`, where they may refer to each other.

    `blocks`: where `define` stands, so that entries may be uses of blocks, and values expressions.
    """

    def __init__(self, kinds: Kinds, blocks: bool = False) -> None:
        self.kinds, self.blocks = kinds, blocks
        self.text = _EXPRESSION if blocks else _REFERENCE  #: what may stand for a scalar
        self.definitions: dict[str, Schema] = {}

    def argument(self, argument: Argument) -> Schema:
        """The schema of one option, with its default."""
        schema = dict(self.annotation(argument.annotation))
        if self.blocks and _EXPRESSION not in schema.get("anyOf", []):
            schema = {"anyOf": [schema, _EXPRESSION]}
        if isinstance(argument.default, str | bool | int | float):
            schema["default"] = argument.default
        return schema

    def annotation(self, annotation: Any, entry: bool = False) -> Schema:
        """The schema of what `check.Checker.value` takes for `annotation`."""
        core, _ = unwrap(annotation)
        arms = alternatives(annotation)
        if core is Any:
            return {}
        if len(arms) > 1:
            return {"anyOf": [self.annotation(arm, entry) for arm in arms]}
        if core in Registry.by_base:
            return self.component(Registry.by_base[core], entry)
        if dataclasses.is_dataclass(core):
            return self.options(core if isinstance(core, type) else type(core))
        if (item := item_of(annotation)) is not None:
            return {"type": "array", "items": self.annotation(item, entry=True)}
        if get_origin(core) is tuple:
            items = get_args(core)
            if ... in items:
                return {"type": "array", "items": self.annotation(items[0], entry=True)}
            return {
                "type": "array",
                "prefixItems": [self.annotation(item, entry=True) for item in items],
                "minItems": len(items),
                "maxItems": len(items),
            }
        if get_origin(core) in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.annotation(get_args(core)[1])}
        schema = leaf(annotation).json_schema()
        if schema.get("type") == "null":
            return schema
        return {"anyOf": [schema, self.text]}

    def component(self, registry: Registry[Any], entry: bool) -> Schema:
        """One component of a registry: its name, or a mapping; in a list, the short forms too."""
        key = f"{registry.kind.replace(' ', '_')}{'_entry' if entry else ''}{'_or_block' if self.blocks else ''}"
        if key not in self.definitions:
            self.definitions[key] = {}  # a placeholder: containers refer to themselves
            bare = [name for name in registry if not any(o.required for o in options_of(registry[name]).values())]
            forms: list[Schema] = [{"type": "string", "anyOf": [{"enum": bare}, self.text]}]
            if self.blocks and registry.base is self.kinds.layer:
                forms[0]["anyOf"].append(self.block_name())
                forms += self.uses(entry)
            for name in registry:
                forms.append(self.typed(registry, name, entry))
                if entry:
                    forms.append(self.short(registry, name))
            self.definitions[key] = {"description": f"A {registry.kind}.", "oneOf": forms}
        return {"$ref": f"#/$defs/{key}"}

    def define(self) -> Schema:
        """The definitions of blocks."""
        block = {
            "type": "object",
            "properties": {
                "parameters": {
                    "anyOf": [{"type": "object", "propertyNames": {"pattern": _BLOCK_NAME}}, {"type": "null"}],
                    "description": "Names and defaults; one whose default is null has to be given.",
                },
                "layers": {"type": "array", "items": self.component(Registry.by_base[self.kinds.layer], entry=True)},
            },
            "required": ["layers"],
            "additionalProperties": False,
        }
        about = "Blocks of layers, used by name like a layer; $NAME in their layers is a parameter's value."
        return {
            "type": "object",
            "description": about,
            "propertyNames": self.block_name(),
            "additionalProperties": block,
        }

    def block_name(self) -> Schema:
        """A name that no layer has."""
        return {"pattern": _BLOCK_NAME, "not": {"enum": [*Registry.by_base[self.kinds.layer], "type"]}}

    def uses(self, entry: bool) -> list[Schema]:
        """Mappings that use a block: `{type: NAME, …}`, in a list `NAME: value` too."""
        name = {"type": "string", **self.block_name()}
        forms: list[Schema] = [{"type": "object", "properties": {"type": name}, "required": ["type"]}]
        if entry:
            forms.append({"type": "object", "propertyNames": name, "minProperties": 1, "maxProperties": 1})
        return forms

    def typed(self, registry: Registry[Any], name: str, entry: bool) -> Schema:
        """`{type: NAME, option: value}`."""
        schema = self.options(registry[name], self.also(registry, entry))
        schema["properties"] = {"type": {"const": name}, **schema["properties"]}
        schema["required"] = ["type", *schema["required"]]
        return schema

    def short(self, registry: Registry[Any], name: str) -> Schema:
        """`NAME: value`, or `NAME: {option: value}`."""
        cls = registry[name]
        options = options_of(cls)
        values = [self.options(cls, self.also(registry, True))]
        first = first_option(cls)
        required = {key for key, option in options.items() if option.required}
        if first is not None and required <= {first}:
            values.append(self.argument(options[first]))
        if not required:
            values.append({"type": "null"})
        return {
            "type": "object",
            "properties": {name: {"description": _about(cls), "anyOf": values}},
            "required": [name],
            "additionalProperties": False,
        }

    def also(self, registry: Registry[Any], entry: bool) -> dict[str, Schema]:
        """Options beside those of the class: a layer's name, and what all data shares."""
        if registry.base is self.kinds.source:
            return {key: self.argument(option) for key, option in options_of(self.kinds.data_options).items()}
        return {"name": {"type": "string"}} if entry and registry.base is self.kinds.layer else {}

    def options(self, cls: type, also: Mapping[str, Schema] | None = None) -> Schema:
        """A mapping of the options of `cls`."""
        known = options_of(cls)
        return {
            "type": "object",
            "description": _about(cls),
            "properties": {**(also or {}), **{name: self.argument(option) for name, option in known.items()}},
            "required": [name for name, option in known.items() if option.required],
            "additionalProperties": False,
        }


def _about(cls: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    text = inspect.cleandoc(cls.__doc__ or cls.__name__)
    return " ".join(text.split("\n\n")[0].split())
