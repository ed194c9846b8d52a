"""Request traces: columnar, read from many public formats, generated, transformed."""

from kvsim.traces.read import format_names, read_trace
from kvsim.traces.trace import Trace
from kvsim.traces.write import write_trace

__all__ = ["Trace", "format_names", "read_trace", "write_trace"]
