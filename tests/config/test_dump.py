from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.config import load_config
from gpubackprop.config.document import Problems, parse
from gpubackprop.config.dump import dump
from tests.config.toys import KINDS

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    [
        "no",
        "1e5",
        ".5e3",
        "0o7",
        "1_0",
        "~",
        "",
        "null",
        "${A}",
        "$${A:1}",
        "x${A}y",
        "a: b",
        "- a",
        "#",
        "'",
        "\t",
        "<<",
    ]
)
keys = texts.filter(lambda key: key != "<<")
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


def load(text):
    problems = Problems()
    node = parse(text, "a.yaml", problems)
    assert not problems, list(problems)
    return node.plain()


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(keys, trees, min_size=1, max_size=4))
def test_a_dump_loads_back_to_the_same_values(tree):
    assert repr(load(dump(tree))) == repr(tree)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)
sizes = st.integers(1, 10**6)
rates = st.floats(1e-30, 1e30)
layers = st.recursive(
    st.just("relu")
    | st.builds(lambda n: {"linear": n}, sizes)
    | st.builds(lambda n, bias: {"type": "linear", "out_features": n, "bias": bias}, sizes, st.booleans())
    | st.builds(
        lambda n, k, p: {"conv2d": {"out_channels": n, "kernel_size": k, "padding": p}},
        sizes,
        sizes | st.tuples(sizes, sizes).map(list),
        st.sampled_from(["same", "valid", 0, 3]),
    )
    | st.builds(lambda text: {"save": text}, texts),
    lambda inner: (
        st.builds(lambda each: {"residual": each}, st.lists(inner, max_size=3))
        | st.builds(
            lambda a, b: {"parallel": {"branches": [a, b]}}, st.lists(inner, max_size=2), st.lists(inner, max_size=2)
        )
    ),
    max_leaves=6,
)
configs = st.fixed_dictionaries(
    {
        "data": st.builds(
            lambda path, size: {"type": "idx", "path": path, "batch_size": size, "transforms": ["flip"]}, texts, sizes
        ),
        "model": st.lists(layers, min_size=1, max_size=4),
        "loss": st.builds(
            lambda weight: {"type": "cross_entropy", "weight": weight}, st.none() | st.lists(rates, max_size=3)
        ),
        "optimizer": st.builds(lambda lr: {"type": "adam", "lr": lr}, rates),
    },
    optional={
        "name": names,
        "seed": st.integers(0, 2**63),
        "metrics": st.lists(st.sampled_from(["accuracy", {"top_k": 3}]), max_size=2),
        "schedule": st.sampled_from(["cosine", {"type": "warmup", "steps": 3, "after": "cosine"}]),
        "training": st.fixed_dictionaries({}, optional={"steps": sizes, "clip_norm": st.none() | rates}),
    },
)


@settings(max_examples=50, deadline=None)
@given(configs)
def test_every_config_survives_resolve_dump_and_load(config):
    first = load_config(config, kinds=KINDS)
    again = load_config(load(first.resolved_yaml()), kinds=KINDS)
    assert again.resolved() == first.resolved()
    assert again.resolved_yaml() == first.resolved_yaml()
    assert [layer.build() for layer in again.model] == [layer.build() for layer in first.model]
