"""Kernels for NVIDIA GPUs: CUDA C++ beside the Python that launches it, compiled at first use.

**Nothing in this folder has ever run on a GPU**, and no device that a user can choose takes it yet. What has been run:
the kernels and all Python around them, on the test device of tests/kernels/cuda, which compiles the same `.cu` files
with the C++ compiler and executes a block's threads as fibers; and NVIDIA's compiler, for sm_75 to sm_100. What has
not: `CupyDriver` and `CudaBackend`, so that CuPy takes sources and arguments as they are given here is read, not seen;
what only hardware does, as warps that really run at once; capture in a CUDA graph; and every choice of grid and block
as to its speed.

`driver.py` is all that differs between a GPU and the test device. A family is a `.cu` file and the `.py` file of its
name, which enters pairs and rules into the table of `kernel.py`; `common.cuh` is what the sources share.
"""
