"""Replicate's HTTP API in Python: what it offers, how it answers, how it fails.

Knows nothing of Prefect or of storage, so it can be read, tested and used by itself.
"""
