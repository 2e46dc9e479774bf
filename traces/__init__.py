"""A workload: what arrives and when."""

from .mooncake import write_trace
from .read import FORMATS, bundled_traces, read_trace
from .stats import trace_stats
from .trace import Trace
from .transform import at_rate, rescaled

__all__ = ["FORMATS", "Trace", "at_rate", "bundled_traces", "read_trace", "rescaled", "trace_stats", "write_trace"]
