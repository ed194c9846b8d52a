"""One frozen run configuration; its fields are the flags, and a TOML table has the same names."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kvsim.errors import InputError, nearest

if TYPE_CHECKING:
    from kvsim.memory import MemoryBudget
    from kvsim.model import Model

KvDtype = Literal[
    "auto", "fp32", "fp16", "bf16", "fp8", "int8", "int4", "int2", "int4-g64", "int4-g32", "int2-g64", "int2-g32"
]  # fmt: skip
WeightDtype = Literal["fp32", "fp16", "bf16", "fp8", "int8", "int4", "mxfp4"]


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """What sizes a KV pool, for whatever model and GPU is looked at."""

    kv_cache_dtype: KvDtype = "auto"
    """What KV is kept in; auto is the model's dtype. int8, int4 and int2 add a 2-byte scale a head and token, K and V,
    -gN four bytes for each N elements of it."""
    weight_dtype: WeightDtype | None = None
    """What the weights are kept in; the model's published checkpoint unless given."""
    weight_bytes: int | None = None
    """Bytes of the weights on all GPUs together, where known; computed unless given."""
    tensor_parallel_size: int = 1
    """GPUs that share the model; KV heads are divided over them, or repeated when there are fewer."""
    gpu_memory_utilization: float = 0.9
    """Share of the GPU's memory the server may use, above 0 and at most 1."""
    kv_cache_memory_bytes: int | None = None
    """Bytes of KV on each GPU, instead of what utilization, weights and activations leave."""
    num_gpu_blocks_override: int | None = None
    """Blocks in the pool by decree, vLLM's null block included; bytes are then not looked at."""

    def load_model(self, name: str) -> Model:
        """Return a model by name or path, with the weights asked for here."""
        from kvsim.zoo import find_model

        return find_model(name, self.weight_dtype, self.weight_bytes)

    def budget(self, max_num_batched_tokens: int) -> MemoryBudget:
        """Return the memory rules for steps of so many tokens."""
        from kvsim.memory import MemoryBudget

        return MemoryBudget(
            gpu_memory_utilization=self.gpu_memory_utilization,
            kv_cache_memory_bytes=self.kv_cache_memory_bytes,
            num_gpu_blocks_override=self.num_gpu_blocks_override,
            max_num_batched_tokens=max_num_batched_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig(MemoryConfig):
    """Everything a run depends on besides the trace and the policy."""

    model: str = "llama-3.1-8b"
    """Built-in model, or path to a Hugging Face config.json; `kvsim capacity --list` shows all."""
    gpu: str = "a100-80-sxm"
    """Built-in GPU; `kvsim capacity --list` shows all."""
    cost: str = "roofline"
    """Step cost: roofline (of --gpu; assumed), roofline:GPU, linear:A,B,C = A + B·tokens + C·Σcontext seconds, or a
    calibrated profile: a path, a name that `kvsim calibrate show` lists, or calibrated for --gpu and --model."""
    allow_unrepresentative: bool = False
    """Take a profile that was not measured on a GPU, to try things out."""
    block_size: int = 16
    """Tokens a block."""
    max_model_len: int | None = None
    """Longest sequence, prompt and output, in tokens; the model's own unless given."""
    max_num_seqs: int = 256
    """Most requests running at once."""
    max_num_batched_tokens: int = 8192
    """Most tokens computed in one step."""
    enable_chunked_prefill: bool = True
    """Whether a prompt may be computed over several steps."""
    long_prefill_token_threshold: int = 0
    """Most tokens of one prompt a step, while others run or wait; 0 for no such limit."""
    long_prefill_token_threshold_adaptive: bool = False
    """Raise that threshold to the budget's even share when few requests are there."""
    enable_prefix_caching: bool | None = None
    """Share blocks by content in sliding-window; prefix, radix and tiered always do, paged and contiguous never."""
    prefix_cache_retention_interval: int | None = 0
    """Windowed blocks kept findable: 0 what a resend needs, N also every N tokens, none for all."""
    kv_groups: str | None = None
    """Layer groups of sliding-window as JSON: [{"type":"full"},{"type":"swa","window":64,"block_size":16}]."""
    watermark: float = 0.0
    """Share of blocks that admissions leave free while others run."""
    scheduler_reserve_full_isl: bool = True
    """Admit a request only if all its tokens so far would fit, not just the first chunk."""
    scheduler: Literal["vllm", "static"] = "vllm"
    """vllm fills free places at every step; static starts a new batch when the last one is done."""
    scheduling_policy: Literal["fcfs", "priority", "sjf", "lpm"] = "fcfs"
    """Order of the waiting: first come, smallest priority, shortest prompt, or longest cached prefix first."""
    async_scheduling: bool = False
    """Schedule a step while the one before it runs."""
    samples: int = 1
    """Answers to each prompt, of the trace's length each; they share the prompt's KV where the policy can."""
    beam: int = 1
    """Beams to each prompt, in place of samples: in every step some die and others are forked."""
    beam_turnover: float = 4.0
    """How often: at output t a beam dies with probability min(1, this / t), and a survivor takes its place."""
    beam_seed: int = 0
    """What the forks are drawn from."""
    vllm_version: Literal["0.32", "0.33"] = "0.32"
    """Whose rules to follow where they differ."""
    goodput: str | None = None
    """Latency limits of a good request, in ms: any of ttft:MS,tpot:MS,e2el:MS."""

    @property
    def width(self) -> int:
        """Sequences of a request: its samples or its beams; InputError where it would be both."""
        for name, count in (("samples", self.samples), ("beam", self.beam)):
            if count < 1:
                raise InputError(f"{name} must be at least 1, got {count}")
        if self.samples > 1 < self.beam:
            raise InputError(f"samples {self.samples} and beam {self.beam}: only one of them may be above 1")
        return self.samples * self.beam

    def changed(self, **changes: Any) -> RunConfig:  # Any: field values, checked where they are used
        """Return a copy with some fields changed; an unknown name is answered with the nearest."""
        known = {field.name for field in dataclasses.fields(self)}
        for name in changes:
            if name not in known:
                raise InputError(f"unknown setting {name!r}{nearest(name, known)}")
        return dataclasses.replace(self, **changes)

    def policy_defaults(self) -> dict[str, object]:
        """Return the settings that policies take as parameters, where they have them."""
        names = ("block_size", "watermark", "scheduler_reserve_full_isl", "kv_groups")
        defaults: dict[str, object] = {name: getattr(self, name) for name in names}
        defaults["prefix_cache_retention_interval"] = self.prefix_cache_retention_interval
        if self.enable_prefix_caching is not None:
            defaults["enable_prefix_caching"] = self.enable_prefix_caching
        return defaults


def read_config(path: Path) -> RunConfig:
    """Read a run configuration from a TOML file whose keys are field names, dashes allowed."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    try:
        return RunConfig().changed(**{name.replace("-", "_"): value for name, value in table.items()})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
