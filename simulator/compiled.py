"""How the step loop is compiled: numba, cached on disk."""

from numba import njit

entry = njit(cache=True)
"""A compiled function that Python calls."""
inner = njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""One that only compiled code calls: without the wrappers for Python, which would take as long to compile again."""
