"""One block of random keys and values on a device, from which pools of any page size are cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvsim.calibration.case import Case

if TYPE_CHECKING:
    import torch

INT8_SCALE = 1 / 16
"""What a stored int8 step is worth: ±127 steps hold eight standard deviations."""
_FILL_ELEMENTS = 1 << 25


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype of a name from `DTYPES` or `KV_ELEMENT_BYTES`."""
    import torch

    return {
        "bf16": torch.bfloat16,
        "fp16": torch.float16,
        "fp32": torch.float32,
        "fp8": torch.float8_e4m3fn,
        "int8": torch.int8,
    }[name]


def cold_locations(call_bytes: int, l2_bytes: int, least: int = 8) -> int:
    """Return how many locations put 5 · L2 between two reads of the same data: ⌈5·L2 / bytes⌉ + 1, at least 8."""
    return max(least, -(-5 * l2_bytes // max(1, call_bytes)) + 1)


class KvStore:
    """Random normal keys and values of `tokens` tokens of one layer, for pools of any page size.

    `key` and `value` are [tokens, KV heads, head size] in the KV dtype; a stored number times `scale` is its value.
    """

    def __init__(
        self,
        *,
        tokens: int,
        kv_heads: int,
        head_size: int,
        kv_dtype: str,
        device: torch.device | str,
        seed: int,
    ) -> None:
        """Fill 2 · tokens · KV heads · head size numbers; never zeros, which run faster than data does."""
        import torch

        self.kv_dtype = kv_dtype
        self.scale = INT8_SCALE if kv_dtype == "int8" else 1.0
        self._generator = torch.Generator(device=device).manual_seed(seed)
        shape = (tokens, kv_heads, head_size)
        self.key = torch.empty(shape, dtype=torch_dtype(kv_dtype), device=device)
        self.value = torch.empty(shape, dtype=torch_dtype(kv_dtype), device=device)
        self._fill(self.key)
        self._fill(self.value)

    @classmethod
    def holding(cls, case: Case, locations: int, *, device: torch.device | str, seed: int) -> KvStore:
        """Make a store just large enough for so many locations of a case."""
        _, kv_heads, head_size = case.heads
        tokens = locations * case.pages * case.page
        return cls(
            tokens=tokens,
            kv_heads=kv_heads,
            head_size=head_size,
            kv_dtype=case.kv_dtype,
            device=device,
            seed=seed,
        )

    @property
    def tokens(self) -> int:
        """Return how many tokens it holds."""
        return int(self.key.shape[0])

    def locations(self, case: Case) -> int:
        """Return how many disjoint locations of a case fit."""
        return self.tokens // case.page // case.pages

    def write(self, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store keys and values, [tokens, KV heads, head size] each, at these slots."""
        self.key[slots] = self._stored(key)
        self.value[slots] = self._stored(value)

    def amplify_values(self, factors: torch.Tensor) -> None:
        """Multiply the values of each token by its factor, saturating where the dtype ends."""
        for start in range(0, self.tokens, 1 << 14):
            part = self.value[start : start + (1 << 14)]
            louder = part.float() * self.scale * factors[start : start + (1 << 14), None, None]
            part.copy_(self._stored(louder))

    def _fill(self, target: torch.Tensor) -> None:
        import torch

        flat = target.view(-1)
        if self.kv_dtype in ("bf16", "fp16", "fp32"):
            flat.normal_(generator=self._generator)
            return
        for start in range(0, flat.numel(), _FILL_ELEMENTS):  # 8-bit dtypes cannot be drawn in place
            part = flat[start : start + _FILL_ELEMENTS]
            drawn = torch.empty(part.shape, dtype=torch.float32, device=part.device)
            part.copy_(self._stored(drawn.normal_(generator=self._generator)))

    def _stored(self, numbers: torch.Tensor) -> torch.Tensor:
        if self.kv_dtype == "int8":
            return (numbers / self.scale).round().clamp(-127, 127).to(self.key.dtype)
        if self.kv_dtype == "fp8":
            return numbers.clamp(-448, 448).to(self.key.dtype)
        return numbers.to(self.key.dtype)
