"""Benchmarks: beside other programs, in turn, asserting nothing about speed."""
