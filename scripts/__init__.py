"""Programs about the package: benchmarks, comparisons, records for tests. Run from the top: python -m scripts.NAME"""
