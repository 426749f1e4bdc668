"""Figures and not tests: `python -m tests.benchmarks [--quick] [--rounds N] [NAME...]`."""
