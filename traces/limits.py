"""How large a workload may be, for those that load nothing else of a trace."""

MOST_REQUESTS, MOST_SYSTEM_PROMPTS = 10**8, 10**6
"""Beyond, the memory of a machine ends before the trace does."""
