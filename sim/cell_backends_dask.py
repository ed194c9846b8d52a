"""Dask workers through joblib's own backend, mended where a killed worker would leave it waiting for ever."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster
from joblib._dask import DaskDistributedBackend


@dataclass(frozen=True, slots=True)
class _Died:
    """An answer that is none."""

    error: BaseException


_cluster: Any = LocalCluster
_client: Any = Client
"""distributed types some of its classes; as Any they are the same whether it is installed or not."""


class DaskBackend(DaskDistributedBackend):  # type: ignore[misc]  # joblib has no types
    """joblib's backend, which passes on that a task's worker died.

    joblib 1.5 and 1.6 give such a task's future its exception but never call back, and a generator of results then
    waits for ever.
    """

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Return how many workers there are, but never 1, which joblib takes as leave to work in this process."""
        return max(int(super().effective_n_jobs(n_jobs)), 2)

    def submit(self, func: Any, callback: Callable[[object], None] | None = None) -> Future[object]:
        """Submit as joblib does, and call back in case of an exception too."""
        future: Future[object] = super().submit(func, callback)

        def tell(done: Future[object]) -> None:
            error = None if done.cancelled() else done.exception()
            if error is not None and callback is not None:
                callback(_Died(error))

        future.add_done_callback(tell)
        return future

    def retrieve_result_callback(self, out: object) -> object:
        """Raise what killed the task, or return its result as joblib does."""
        if isinstance(out, _Died):
            raise out.error
        return super().retrieve_result_callback(out)


@contextmanager
def started(
    jobs: int | None, address: str | None
) -> Iterator[tuple[int, tuple[type[BaseException], ...], dict[str, Any]]]:
    """Connect to a scheduler, or start workers on this machine; yield workers, deaths and joblib's settings."""
    with ExitStack() as closing:
        target = address
        if target is None:
            # A second try is ours to make, alone, so that one cell cannot take others down with it.
            closing.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 0}))
            target = closing.enter_context(
                _cluster(
                    n_workers=jobs or os.cpu_count() or 1,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
            )
        client = closing.enter_context(_client(target, set_as_default=False))
        count = jobs or max(sum(client.ncores().values()), 1)
        yield count, (KilledWorker,), {"backend": DaskBackend(client=client)}
