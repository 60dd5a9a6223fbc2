"""The ops: hand-written forward and backward pairs, one file per family. See `gpubackprop.tape.Op`."""
