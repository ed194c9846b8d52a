"""The parts of a config.json that speak of single layers: window patterns and experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvsim.errors import InputError
from kvsim.model import Experts
from kvsim.window import Chunk
from kvsim.zoo import pattern


class Fields:
    """A configuration's fields: what the file says, then what its family assumes."""

    def __init__(self, given: Mapping[str, object], defaults: Mapping[str, object], place: str) -> None:
        """Keep both; `place` is named in errors."""
        self._given = given
        self._defaults = defaults
        self.place = place
        """The file, for error messages."""

    def get(self, *names: str) -> object | None:
        """Return the first of `names` the file sets, else the family; null is unset."""
        for source in (self._given, self._defaults):
            for name in names:
                if source.get(name) is not None:
                    return source[name]
        return None

    def switched_off(self, name: str) -> bool:
        """Tell whether the file itself sets the field to null, 0 or −1."""
        return name in self._given and self._given[name] in (None, 0, -1)

    def whole(self, *names: str, default: int | None = None) -> int:
        """Return a whole number ≥ 1 under the first of `names` that is set."""
        value = self.get(*names)
        if value is None and default is not None:
            return default
        if value is None:
            others = f" (nor {', '.join(names[1:])})" if names[1:] else ""
            raise InputError(f"{self.place}: has no {names[0]}{others}")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{self.place}: {names[0]} must be a whole number of at least 1, got {value!r}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return a true or false field."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InputError(f"{self.place}: {name} must be true or false, got {value!r}")
        return value


def read_windows(found: Fields, layers: int) -> tuple[int | None, ...]:
    """Return the window of each layer, None for full; empty when no layer has one."""
    window = _window(found) if found.flag("use_sliding_window", True) else None
    chunk = None if found.switched_off("attention_chunk_size") else found.get("attention_chunk_size")
    kinds = found.get("layer_types")
    if kinds is not None:
        windows = _by_type(found, kinds, layers, window)
    elif chunk is not None:
        windows = _chunked(found, layers)
    elif window is None:
        return ()
    elif isinstance(window, Sequence):
        windows = tuple(window[layer % len(window)] for layer in range(layers))
    else:
        windows = _by_pattern(found, layers, window)
    return windows if any(width is not None for width in windows) else ()


Window = int | Sequence[int | None] | None


def _window(found: Fields) -> Window:
    """Return the width in tokens, or a list of widths that repeats over the layers."""
    if found.switched_off("sliding_window") and found.get("interleaved_sliding_window") is None:
        return None
    for name in ("interleaved_sliding_window", "sliding_window", "sliding_window_size"):
        value = found.get(name)
        if isinstance(value, list):
            if not value or not all(
                width is None or (isinstance(width, int) and width > 0) for width in value
            ):
                raise InputError(
                    f"{found.place}: {name} must list widths of at least 1 or null, got {value!r}"
                )
            return value
        if value is not None:
            return found.whole(name)
    return None


def _by_type(found: Fields, kinds: object, layers: int, window: Window) -> tuple[int | None, ...]:
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise InputError(f"{found.place}: layer_types must list one kind for each of the {layers} layers")
    windows: list[int | None] = []
    for layer, kind in enumerate(kinds):
        if kind not in ("full_attention", "sliding_attention", "chunked_attention"):
            raise InputError(
                f"{found.place}: layer_types[{layer}] must be full_attention, sliding_attention or "
                f"chunked_attention, got {kind!r}"
            )
        if kind == "chunked_attention":
            windows.append(Chunk(found.whole("attention_chunk_size")))
            continue
        if kind == "sliding_attention" and not isinstance(window, int):
            raise InputError(
                f"{found.place}: layer_types[{layer}] is sliding_attention, but no sliding_window is on"
            )
        windows.append(window if kind == "sliding_attention" and isinstance(window, int) else None)
    return tuple(windows)


def _chunked(found: Fields, layers: int) -> tuple[int | None, ...]:
    """Return Llama 4's pattern: layers with rotary positions attend to their chunk, the others to everything."""
    chunk = Chunk(found.whole("attention_chunk_size"))
    rotary = found.get("no_rope_layers")
    if isinstance(rotary, list) and rotary:
        if len(rotary) != layers:
            raise InputError(
                f"{found.place}: no_rope_layers must have one entry for each of the {layers} layers"
            )
        return tuple(chunk if has_positions else None for has_positions in rotary)
    if found.get("no_rope_layer_interval") is None:
        raise InputError(
            f"{found.place}: attention_chunk_size is set, but no layer_types, no_rope_layers or "
            "no_rope_layer_interval says of which layers"
        )
    return pattern(layers, chunk, found.whole("no_rope_layer_interval"))


def _by_pattern(found: Fields, layers: int, window: int) -> tuple[int | None, ...]:
    repeat = found.get("sliding_window_pattern", "_sliding_window_pattern")
    if isinstance(repeat, str) and repeat and set(repeat) <= {"L", "G"}:
        return tuple(window if repeat[layer % len(repeat)] == "L" else None for layer in range(layers))
    if repeat is not None:
        every = found.whole("sliding_window_pattern", "_sliding_window_pattern")
        return pattern(layers, window, every)
    if found.get("max_window_layers") is not None:
        value = found.get("max_window_layers")
        full = 0 if value == 0 else found.whole("max_window_layers")
        return tuple(window if layer >= full else None for layer in range(layers))
    return pattern(layers, window, None)


def read_experts(found: Fields, layers: int) -> Experts | None:
    """Return the mixture of experts, or None for a dense model."""
    count = found.get("num_local_experts", "n_routed_experts", "num_experts")
    if count is None or count in (0, 1):
        return None
    width = found.whole("moe_intermediate_size", "expert_intermediate_size", "intermediate_size")
    shared = 0 if found.get("n_shared_experts") is None else found.whole("n_shared_experts") * width
    if found.get("shared_expert_intermediate_size") is not None:
        shared = found.whole("shared_expert_intermediate_size")
    return Experts(
        total=found.whole("num_local_experts", "n_routed_experts", "num_experts"),
        active=found.whole("num_experts_per_tok", "experts_per_token", "num_experts_per_token"),
        ffn=width,
        shared_ffn=shared,
        dense_layers=_dense_layers(found, layers),
    )


def _dense_layers(found: Fields, layers: int) -> int:
    """Count layers without experts: the first (DeepSeek), or by step and list (Qwen)."""
    first = found.get("first_k_dense_replace")
    if isinstance(first, int) and not isinstance(first, bool):
        return min(max(first, 0), layers)
    listed = found.get("mlp_only_layers")
    only = set(listed) if isinstance(listed, list) else set()
    step = found.whole("decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step", default=1)
    return sum(layer in only or (layer + 1) % step != 0 for layer in range(layers))
