from __future__ import annotations

import numpy as np

from gpubackprop.backend import choose
from gpubackprop.ops.shape import concat


def test_more_arrays_than_cupy_joins_by_a_copy_each_are_part_of_a_step():
    b = choose("strict")[0]
    hosts = [np.full((3, 2), float(i)) for i in range(9)]
    y, _ = b.capture(concat.forward)(b, *map(b.from_host, hosts))
    assert np.array_equal(b.to_host(y), np.concatenate(hosts, axis=-1))
