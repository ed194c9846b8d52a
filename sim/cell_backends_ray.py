"""Ray workers through Ray's own joblib backend."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.joblib.ray_backend import RayBackend


@contextmanager
def started(
    jobs: int | None, address: str | None
) -> Iterator[tuple[int, tuple[type[BaseException], ...], dict[str, Any]]]:
    """Connect to a cluster, or start workers on this machine; yield workers, deaths and joblib's settings."""
    already = ray.is_initialized()
    if not already:
        # Ray's pool wants a CPU a process, and joblib would not use a pool of one.
        local = {"num_cpus": max(jobs or os.cpu_count() or 1, 2), "include_dashboard": False}
        where = local if address is None else {"address": address}
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    try:
        backend = RayBackend()
        # joblib's multiprocessing pool has trouble with generators; Ray's, which takes its place, has none.
        backend.supports_return_generator = True
        resources: Any = ray.cluster_resources  # Ray types some of its functions
        count = jobs or int(resources().get("CPU", 1))
        yield count, (RayError,), {"backend": backend}
    finally:
        if not already:
            ray.shutdown()
