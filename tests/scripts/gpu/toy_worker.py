"""A worker for the tests: python tests/scripts/gpu/toy_worker.py [TROUBLE [ITEM]] does a, b, c and d."""

from __future__ import annotations

import os
import sys
import time

from scripts.gpu.worker import Lines

trouble, where = [*sys.argv[1:], "", ""][:2]
lines = Lines()
lines.say(total=0 if trouble == "empty" else 4)
print("a library that prints")
for name in "abcd":
    if name in lines.done:
        continue
    lines.say(begin=name)
    if name == where:
        if trouble == "dies":
            print("out of luck", flush=True)
            os.abort()
        if trouble == "hangs":
            time.sleep(600)
        if trouble == "loses":
            lines.item(name, "failed", "CUDADriverError: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access")
    lines.item(name, "passed", process=os.getpid())
if trouble == "mute":
    sys.exit(3)
lines.say(end=True)
