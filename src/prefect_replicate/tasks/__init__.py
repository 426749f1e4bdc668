"""Prefect tasks: a few lines each, in pairs. `name` is always sync and `aname` always async."""
