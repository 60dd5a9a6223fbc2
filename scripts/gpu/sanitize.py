"""compute-sanitizer on a row of each kernel: python -m scripts.gpu.sanitize, as worker.py runs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.gpu.record import FAILED, NOT_RUN, PASSED
from scripts.gpu.worker import Lines

TOOLS = ("memcheck", "racecheck")
PLACES = ("/usr/local/cuda/bin", "/opt/cuda/bin")
#: what it says where it cannot work on this machine, whatever is checked
REFUSED = ("Device not supported", "not supported on this", "Unable to find injection library", "No attachable process")


def program() -> str | None:
    """Where it is."""
    return shutil.which("compute-sanitizer") or next(
        (found for place in PLACES if (found := shutil.which("compute-sanitizer", path=place))), None
    )


def verdict(code: int, output: str) -> tuple[str, str]:
    """(status, reason) of a run."""
    for line in output.splitlines():
        if any(words in line for words in REFUSED):
            return NOT_RUN, f"compute-sanitizer cannot work here: {line.strip('= ')}"
    found = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", output)
    if not found:
        last = [line.strip("= ") for line in output.splitlines() if line.strip("= ")] or ["no word"]
        return FAILED, f"no summary, code {code}: {last[-1]}"
    if int(found[-1]):
        first = next((line for line in output.splitlines() if re.search(r"Invalid|Error:|hazard|Misaligned", line)), "")
        return FAILED, f"{found[-1]} errors, the first: {first.strip('= ')}"
    return (PASSED, "") if code == 0 else (FAILED, f"no errors of memory, but code {code}: {output.splitlines()[-1]}")


def main() -> None:
    """Both tools in turn."""
    lines, tool_path = Lines(), program()
    lines.say(total=len(TOOLS))
    for tool in TOOLS:
        name = f"compute-sanitizer {tool}"
        if name in lines.done:
            continue
        lines.say(begin=name)
        if tool_path is None:
            lines.item(name, NOT_RUN, "compute-sanitizer is not installed")
            continue
        command = [tool_path, "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
        command += [sys.executable, "-m", "scripts.gpu.kernel_rows", "--small"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        lines.item(name, *verdict(done.returncode, done.stdout), program=str(Path(tool_path)))
    lines.say(end=True)


if __name__ == "__main__":
    main()
