"""Parameter groups: other settings for the params whose names match a pattern, and layer-wise learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, NamedTuple, TypeAlias

from gpubackprop.errors import UsageError
from gpubackprop.parameters import Segment
from gpubackprop.registry import NonNegativeFloat, PositiveFloat, Range, did_you_mean


@dataclass
class Group:
    """Settings of the params whose state-dict keys match; of several groups that match, the first one counts.

    match         a pattern, or several: `"*.bias"`, `["0.*", "embed.*"]`; `*` stands for any text, dots too
    lr            the learning rate; the schedule multiplies it as it does the optimizer's own
    lr_scale      a factor on the optimizer's learning rate
    weight_decay  in the place of the optimizer's, `no_decay` notwithstanding
    frozen        not trained at all: no gradient, no state, no decay
    """

    match: str | Sequence[str]
    lr: PositiveFloat | None = None
    lr_scale: PositiveFloat | None = None
    weight_decay: NonNegativeFloat | None = None
    frozen: bool = False

    def __post_init__(self) -> None:
        if not self.patterns:
            raise UsageError('match is empty; give a pattern of keys, as in match: "*.bias"')
        if self.lr is not None and self.lr_scale is not None:
            raise UsageError("lr and lr_scale are both given; keep one of them")
        settings = self.lr, self.lr_scale, self.weight_decay
        if self.frozen and any(setting is not None for setting in settings):
            raise UsageError("frozen params are not updated; leave out lr, lr_scale and weight_decay")
        if not self.frozen and all(setting is None for setting in settings):
            raise UsageError("changes nothing; give lr, lr_scale, weight_decay or frozen: true")

    @property
    def patterns(self) -> list[str]:
        """`match` as a list."""
        return [self.match] if isinstance(self.match, str) else list(self.match)

    def holds(self, key: str) -> bool:
        """Whether one of the patterns matches."""
        return any(fnmatchcase(key, pattern) for pattern in self.patterns)


LayerDecay = Annotated[float, Range(gt=0, le=1)]
#: In Python a group may be given as a dict as well.
Groups: TypeAlias = Sequence[Group]


class Setting(NamedTuple):
    """What an update needs to know of a param beyond the formula: a factor on the learning rate, and the decay."""

    lr_scale: float
    weight_decay: float


def check_patterns(patterns: Sequence[str], keys: Sequence[str]) -> None:
    """Raises UsageError for a pattern that matches none of `keys`; without keys there is nothing to be said."""
    for pattern in patterns:
        if keys and not any(fnmatchcase(key, pattern) for key in keys):
            some = ", ".join(keys[:8]) + (", …" if len(keys) > 8 else "")
            raise UsageError(f"{pattern!r} matches no parameter; there are {some}{did_you_mean(pattern, keys)}")


def as_groups(groups: Sequence[Group | Mapping[str, Any]]) -> list[Group]:
    """Dicts as groups. Raises UsageError for keys that no group has."""
    found = []
    for group in groups:
        if isinstance(group, Mapping):
            known = list(Group.__dataclass_fields__)
            for key in group:
                if key not in known:
                    hint = did_you_mean(key, known)
                    raise UsageError(f"groups: unknown key {key!r}; known: {', '.join(known)}{hint}")
            if "match" not in group:
                raise UsageError('groups: match is missing; give a pattern of keys, as in match: "*.bias"')
            group = Group(**group)
        found.append(group)
    return found


def group_of(groups: Sequence[Group], key: str) -> Group | None:
    """The first group that holds the param."""
    return next((group for group in groups if group.holds(key)), None)


def layer_scales(segments: Sequence[Segment], decay: float) -> dict[str, float]:
    """By param key decay^(L - 1 - l): l numbers the model's top-level entries with params, L counts them.

    The last layer keeps the learning rate, each one before it has `decay` times its successor's (Clark et al. 2020,
    ELECTRA, section 3.4's fine-tuning; Bao et al. 2022, BEiT).
    """
    top = {name: name.partition(".")[0] if "." in name else "" for name, *_ in segments}
    layers = list(dict.fromkeys(top.values()))
    return {name: decay ** (len(layers) - 1 - layers.index(layer)) for name, layer in top.items()}
