"""Prefect blocks: who pays, and where outputs go. They hold no clients, so they pickle."""
