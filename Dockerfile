# gpubackprop in a container: `--target cpu`, or `--target cuda` for an NVIDIA GPU.
#
# A base is any Linux image with python3 >= 3.11 and its venv module. CUDA comes as wheels ([cuda12] or [cuda13]), so that
# the CUDA target needs no CUDA in its base; the driver comes from the host's NVIDIA Container Toolkit at run time.
ARG CPU_BASE=python:3.12-slim
ARG CUDA_BASE=python:3.12-slim

# The dependencies change seldom: they are installed apart from the package, in a layer of their own.
FROM ${CPU_BASE} AS requirements
COPY pyproject.toml /src/
ARG CUDA_EXTRA=cuda12
WORKDIR /src
RUN python3 -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    write = lambda name, lines: open(name, 'w').write('\n'.join(lines) + '\n'); \
    write('cpu.txt', project['dependencies']); \
    write('cuda.txt', project['dependencies'] + project['optional-dependencies']['${CUDA_EXTRA}'])"

FROM ${CPU_BASE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY gpubackprop gpubackprop
RUN python3 -m venv /tmp/venv && /tmp/venv/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM ${CPU_BASE} AS cpu-dependencies
COPY --from=requirements /src/cpu.txt /tmp/requirements.txt
RUN python3 -m venv /opt/gpubackprop && /opt/gpubackprop/bin/pip install --no-cache-dir -r /tmp/requirements.txt

FROM ${CUDA_BASE} AS cuda-dependencies
COPY --from=requirements /src/cuda.txt /tmp/requirements.txt
RUN python3 -m venv /opt/gpubackprop && /opt/gpubackprop/bin/pip install --no-cache-dir -r /tmp/requirements.txt

FROM ${CPU_BASE} AS cpu
# OpenMP's library, for Numba's threads: with its own, slower ones it does without.
RUN python3 -c "import ctypes; ctypes.CDLL('libgomp.so.1')" 2>/dev/null || { apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; }
COPY --from=cpu-dependencies /opt/gpubackprop /opt/gpubackprop
COPY --from=wheel /wheel /opt/gpubackprop/wheel
RUN /opt/gpubackprop/bin/pip install --no-cache-dir --no-deps --no-index /opt/gpubackprop/wheel/*.whl \
    && install -d -o 1000 -g 1000 /runs /data
# With a read-only root only /runs and /tmp are written: home and caches lie in /tmp, whoever the user is. The working
# directory is /, so that a config's `runs/` and `data/` are the mounted folders.
ENV PATH=/opt/gpubackprop/bin:$PATH HOME=/tmp XDG_CACHE_HOME=/tmp/cache \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /
ENTRYPOINT ["gpubackprop"]
CMD ["--help"]

FROM ${CUDA_BASE} AS cuda
RUN python3 -c "import ctypes; ctypes.CDLL('libgomp.so.1')" 2>/dev/null || { apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*; }
COPY --from=cuda-dependencies /opt/gpubackprop /opt/gpubackprop
COPY --from=wheel /wheel /opt/gpubackprop/wheel
RUN /opt/gpubackprop/bin/pip install --no-cache-dir --no-deps --no-index /opt/gpubackprop/wheel/*.whl \
    && install -d -o 1000 -g 1000 /runs /data
# The first two tell the NVIDIA Container Toolkit what to hand in; bases other than NVIDIA's do not set them.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PATH=/opt/gpubackprop/bin:$PATH HOME=/tmp XDG_CACHE_HOME=/tmp/cache \
    CUPY_CACHE_DIR=/tmp/cache/cupy PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /
ENTRYPOINT ["gpubackprop"]
CMD ["--help"]
