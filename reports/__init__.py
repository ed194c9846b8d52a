"""Tables and plots of what runs measured.

Importing this loads neither matplotlib nor rich; the first plot or table does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvsim.reports.batch import plot_batch_size, plot_waiting
    from kvsim.reports.caption import provenance_caption
    from kvsim.reports.comparison import plot_comparison, save_comparison
    from kvsim.reports.html import html_report
    from kvsim.reports.latency import plot_itl_cdf, plot_latency_cdf
    from kvsim.reports.memory import plot_memory_over_time, plot_memory_split
    from kvsim.reports.memory_map import plot_memory_map
    from kvsim.reports.predicted import plot_predicted_measured
    from kvsim.reports.search import plot_search_curve
    from kvsim.reports.style import save_figure
    from kvsim.reports.sweep import plot_hit_rate, plot_sweep, plot_throughput_latency
    from kvsim.reports.table import comparison_markdown, comparison_table, comparison_text, print_comparison

__all__ = [
    "comparison_markdown",
    "comparison_table",
    "comparison_text",
    "html_report",
    "plot_batch_size",
    "plot_comparison",
    "plot_hit_rate",
    "plot_itl_cdf",
    "plot_latency_cdf",
    "plot_memory_map",
    "plot_memory_over_time",
    "plot_memory_split",
    "plot_predicted_measured",
    "plot_search_curve",
    "plot_sweep",
    "plot_throughput_latency",
    "plot_waiting",
    "print_comparison",
    "provenance_caption",
    "save_comparison",
    "save_figure",
]

_HOMES = {
    "comparison_markdown": "table",
    "comparison_table": "table",
    "comparison_text": "table",
    "html_report": "html",
    "plot_batch_size": "batch",
    "plot_comparison": "comparison",
    "plot_hit_rate": "sweep",
    "plot_itl_cdf": "latency",
    "plot_latency_cdf": "latency",
    "plot_memory_map": "memory_map",
    "plot_memory_over_time": "memory",
    "plot_memory_split": "memory",
    "plot_predicted_measured": "predicted",
    "plot_search_curve": "search",
    "plot_sweep": "sweep",
    "plot_throughput_latency": "sweep",
    "plot_waiting": "batch",
    "print_comparison": "table",
    "provenance_caption": "caption",
    "save_comparison": "comparison",
    "save_figure": "style",
}


def __getattr__(name: str) -> object:
    """Import the module of a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
