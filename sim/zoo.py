"""Models by name: the built-in table `models.toml`, or anyone's Hugging Face config.json."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from kvsim.errors import InputError, nearest
from kvsim.model import WEIGHT_BITS, Experts, LatentAttention, Model
from kvsim.window import Chunk

SHAPE = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "max_position_embeddings")
"""Columns of a row's `shape` in models.toml."""


def model_names() -> tuple[str, ...]:
    """Return the built-in models' names, in the table's order."""
    return tuple(_table())


def find_model(name: str, weight_dtype: str | None = None, weight_bytes: int | None = None) -> Model:
    """Return a built-in model by name, or the model of a config.json.

    A folder that holds one will do. `weight_dtype` and `weight_bytes` (all GPUs together) take the place
    of what the table or file says.
    """
    if weight_dtype is not None and weight_dtype not in WEIGHT_BITS:
        raise InputError(f"weight dtype must be one of {', '.join(WEIGHT_BITS)}, got {weight_dtype!r}")
    if weight_bytes is not None and weight_bytes < 1:
        raise InputError(f"weight bytes must be at least 1, got {weight_bytes}")
    model = _built_in(name) if name in _table() else _from_file(name, weight_dtype, weight_bytes)
    if weight_dtype is not None:
        model = replace(model, weight_dtype=weight_dtype, known_weight_bytes=None)
    return model if weight_bytes is None else replace(model, known_weight_bytes=weight_bytes)


def pattern(layers: int, window: int | None, full_every: int | None) -> tuple[int | None, ...]:
    """Give each layer its window; every `full_every`-th layer is full."""
    if window is None:
        return ()
    return tuple(
        None if full_every is not None and (layer + 1) % full_every == 0 else window
        for layer in range(layers)
    )


def _from_file(name: str, weight_dtype: str | None, weight_bytes: int | None) -> Model:
    path = Path(name)
    if not (path.exists() or name.endswith(".json") or os.sep in name):
        raise InputError(
            f"unknown model {name!r}{nearest(name, _table())}; see `kvsim capacity --list`, "
            "or give the path of a Hugging Face config.json"
        )
    from kvsim.hf_config import read_config  # built-in names do without it

    return read_config(path, weights_given=weight_dtype is not None or weight_bytes is not None)


def _built_in(name: str) -> Model:
    row = dict(_table()[name])
    shape = dict(zip(SHAPE, row.pop("shape"), strict=True))
    window, chunk = row.pop("window", None), row.pop("chunk", None)
    windows = pattern(shape["layers"], window if chunk is None else Chunk(chunk), row.pop("full_every", None))
    latent, experts = row.pop("latent", None), row.pop("experts", None)
    row.setdefault("weight_dtype", row.get("dtype", "bf16"))
    return Model(
        name=name,
        windows=windows,
        latent=LatentAttention(**latent) if latent else None,
        experts=Experts(**experts) if experts else None,
        **shape,
        **row,
    )


@cache
def _table() -> dict[str, dict[str, Any]]:  # Any: rows of a TOML file, checked by Model's constructor
    import tomllib

    return tomllib.loads(files("kvsim").joinpath("models.toml").read_text(encoding="utf-8"))
