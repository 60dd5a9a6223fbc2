"""Fails when the package outgrows its cap on lines: what is added has to be worth its room.

Raise a cap in the same commit that needs it, so that a reviewer sees it.
"""

from __future__ import annotations

import sys
from pathlib import Path

PACKAGE_CAP = 37_000
FILE_CAP = 400


def main(package: Path) -> int:
    """Prints what is over a cap, or the total; returns the exit status."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(package.rglob("*.py"))}
    if not lines:
        print(f"{package}: no Python files", file=sys.stderr)
        return 1
    total = sum(lines.values())
    problems = [f"{path}: {n} lines; the cap for a file is {FILE_CAP}" for path, n in lines.items() if n > FILE_CAP]
    if total > PACKAGE_CAP:
        problems.append(f"{package}: {total} lines; the cap for the package is {PACKAGE_CAP}")
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{total} lines of {PACKAGE_CAP} in {len(lines)} files")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[1] / "gpubackprop"))
