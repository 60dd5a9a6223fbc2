"""What scripts/gpu_check.py runs: the standard library alone, but for the modules that are processes of their own."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
