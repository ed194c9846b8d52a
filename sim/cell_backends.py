"""Worker processes through joblib: loky on this machine, ray or dask on a cluster."""

from __future__ import annotations

import concurrent.futures
import importlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, Literal, Self, TypeVar
from urllib.parse import urlsplit

from kvsim.errors import InputError, nearest

Backend = Literal["loky", "ray", "dask"]
BACKENDS: tuple[Backend, ...] = ("loky", "ray", "dask")
Started = tuple[int, tuple[type[BaseException], ...], dict[str, Any]]
"""Workers, exceptions that mean that one died, and what joblib.parallel_config is told."""
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Workers:
    """A pool that calls a function on items in other processes, in any order; use it with `with`."""

    def __init__(
        self,
        backend: Backend = "loky",
        jobs: int | None = None,
        address: str | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        """Ask for `jobs` processes, all CPUs unless given; `address` is a running cluster's, for ray and dask.

        joblib keeps loky's processes for the next call; `fresh` asks for new ones, and ends them afterwards.
        """
        if backend not in BACKENDS:
            raise InputError(
                f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}{nearest(str(backend), BACKENDS)}"
            )
        if jobs is not None and jobs < 1:
            raise InputError(f"jobs must be at least 1, got {jobs}")
        if backend == "loky" and address is not None:
            raise InputError(
                "a scheduler address goes with backend ray or dask; loky works on this machine only"
            )
        self.backend = backend
        self.jobs = jobs
        self.deaths: tuple[type[BaseException], ...] = ()
        """Exceptions that mean that a worker died."""
        self._address = address
        self._fresh = fresh
        self._joblib: dict[str, Any] = {}  # Any: what joblib.parallel_config takes
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        """Start a local cluster, or connect to the one at the address."""
        try:
            started = self._start()
            self.jobs, self.deaths, self._joblib = self._closing.enter_context(started)
        except (OSError, ConnectionError, TimeoutError) as error:
            where = self._address or "this machine"
            raise InputError(f"backend {self.backend}: no cluster at {where}: {error}") from error
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop what was started here."""
        self._closing.close()

    def _start(self) -> AbstractContextManager[Started]:
        if self.backend == "loky":
            return _loky(self.jobs, self._fresh)
        return _cluster(self.backend, self.jobs, self._address)

    def map(self, function: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """Yield answers as they come; an item is taken from `items` when a worker is free for it.

        Raises one of `deaths` when a worker died; the answers that had not come are then lost.
        """
        import joblib

        assert self.jobs is not None
        # joblib would work in this process if told of one worker, and a crash would then be ours.
        with joblib.parallel_config(n_jobs=max(self.jobs, 2), **self._joblib):
            parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=self.jobs)
        call = _WithParent(function, os.getpid()) if self.backend == "loky" else function
        yield from parallel(joblib.delayed(call)(item) for item in items)


def start_early(jobs: int) -> Callable[[], None]:
    """Start loky's processes while something else is done; call what is returned before they are used.

    They take about half a second to start and to import what a run needs.
    """
    import joblib

    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1, pre_dispatch=jobs)
    starting = parallel(joblib.delayed(_import)(name) for name in ["kvsim.policies"] * jobs)

    def wait() -> None:
        for _ in starting:
            pass

    return wait


def _import(name: str) -> None:
    importlib.import_module("kvsim.run")
    importlib.import_module(name)


@dataclass(frozen=True, slots=True)
class _WithParent(Generic[Item, Answer]):
    """Calls a function in a loky process, which will not outlive the process that it works for.

    Loky's workers wait for minutes for work from a parent that was killed, and their semaphores with them.
    """

    function: Callable[[Item], Answer]
    parent: int

    def __call__(self, item: Item) -> Answer:
        """Start watching the parent, once a process, and call the function."""
        _watch(self.parent)
        return self.function(item)


@cache
def _watch(parent: int) -> None:
    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _loky(jobs: int | None, fresh: bool) -> Iterator[Started]:
    import joblib
    from joblib.externals.loky import get_reusable_executor

    if fresh:
        get_reusable_executor().shutdown(wait=True)
    yield jobs or joblib.cpu_count(), (concurrent.futures.BrokenExecutor,), {"backend": "loky"}
    if fresh:
        get_reusable_executor().shutdown(wait=True)


def _cluster(backend: Backend, jobs: int | None, address: str | None) -> AbstractContextManager[Started]:
    """Load the library that the backend needs, and start or find its cluster."""
    variable = {"ray": "RAY_ADDRESS", "dask": "DASK_SCHEDULER_ADDRESS"}[backend]
    try:
        module = importlib.import_module(f"kvsim.cell_backends_{backend}")
    except ImportError as error:
        raise InputError(
            f"backend {backend} needs a library that is not installed ({error.name}): pip install 'kvsim[{backend}]'"
        ) from None
    where = address or os.environ.get(variable)
    if where is not None:
        _knock(where)
    found: AbstractContextManager[Started] = module.started(jobs, where)
    return found


def _knock(address: str) -> None:
    """Raise OSError at once where nobody listens; the libraries would go on trying for minutes."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.hostname and parts.port and parts.scheme in ("tcp", "tls", "ray"):
        socket.create_connection((parts.hostname, parts.port), timeout=10.0).close()
