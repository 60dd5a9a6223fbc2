"""`python -m gpubackprop` is the command `gpubackprop`."""

from gpubackprop.cli import main

if __name__ == "__main__":
    main()
