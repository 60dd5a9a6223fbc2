"""Check and measure all of the GPU's code, on one NVIDIA GPU: python scripts/gpu_check.py --part tests|kernels|bench

    tests    the test suite's `-m gpu`, compute-sanitizer on a small run
    kernels  every kernel beside its reference, in every dtype, on fresh random inputs, its memory poisoned
    bench    training steps beside PyTorch's, by workload

    --only W         what has W in its name (bench: one workload; tests: as pytest's -k)
    --again          do what has been done already once more
    --minutes M      how long a call may take; what is left is done by the same command, given again
    --results FILE   the JSON; scripts/bench/results/gpu-<name of the GPU>.json unless given
    --report         run nothing: print what the JSON holds
    --seed N         of the kernels' inputs; a new one each time unless given

From a bare checkout with whatever Python packages are there: what cannot run for lack of one is said to be NOT RUN.
Data is made up. Results are written one by one, so that a call that was killed goes on where it stopped.

Exit codes: 0 what could run passed · 1 something failed, or nothing could run · 2 bad usage · 4 no usable GPU ·
5 time is over and something is left: the same command again.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # nothing is installed

from scripts.gpu.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __doc__ or ""))
