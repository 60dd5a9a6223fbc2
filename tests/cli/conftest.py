from __future__ import annotations

from tests.run.conftest import data, finished, gb, stop_at  # noqa: F401  # fixtures are found by their names
