"""How the step loop is compiled: numba, cached on disk.

`_nrt=False` leaves numba's reference counting out: the loop allocates nothing, its arrays belong to the Python objects
that call it, and counting references to all of them at every call took four fifths of the time.
"""

from numba import njit

allocating = njit(cache=True)
"""A compiled function that Python calls and that makes arrays."""
entry = njit(cache=True, _nrt=False)
"""A compiled function that Python calls; it allocates nothing."""
inner = njit(cache=True, _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""One that only compiled code calls: without the wrappers for Python, which would take as long to compile again."""
