"""Faster pairs for the ops, by device; each stands in for a reference in `ops/` and is tested against it."""
