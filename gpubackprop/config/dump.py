"""Plain values as YAML that loads back to the same values."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from gpubackprop.config.scalars import escape, resolve

_PLAIN = re.compile(r"[A-Za-z0-9_./]([A-Za-z0-9_./ +-]*[A-Za-z0-9_./])?")  # nothing that YAML could take amiss


class _Representer(SafeRepresenter):
    """Quotes every text that the core schema would read as something else, and never writes an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> ScalarNode:
        safe = _PLAIN.fullmatch(data) and isinstance(resolve(data), str)
        return self.represent_scalar("tag:yaml.org,2002:str", escape(data), style=None if safe else '"')


_Representer.add_representer(str, _Representer.text)


def dump(value: Any) -> str:
    """A plain tree as a YAML document, with texts that hold `${…}` escaped."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = None  # leaves stand on one line
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # its stub says None
    yaml.width = 200
    out = StringIO()
    yaml.dump(value, out)
    return out.getvalue()
