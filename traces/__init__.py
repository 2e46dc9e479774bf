"""A workload: what arrives and when."""

from .mooncake import write_trace
from .read import bundled_traces, read_trace
from .stats import trace_stats
from .trace import Trace

__all__ = ["Trace", "bundled_traces", "read_trace", "trace_stats", "write_trace"]
