"""Discrete-event simulation of KV cache scheduling for LLM serving."""

from __future__ import annotations

if __name__ != "kvsim":
    raise ImportError(f"this package is kvsim; it was imported as {__name__!r}, which makes a second copy of it")

__version__ = "0.1.0"
