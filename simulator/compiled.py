"""How the step loop is compiled: numba, cached on disk.

`_nrt=False` leaves numba's reference counting out: the loop allocates nothing, its arrays belong to the Python objects
that call it, and counting references to all of them at every call took four fifths of the time.
`forceinline` has LLVM inline the small functions into their callers: a call hands over each array of the engine in
seven pieces, a hundred and more words on the stack, which took two thirds of what was left.
"""

from typing import Any

from numba import njit

_UNCOUNTED: dict[str, Any] = {"_nrt": False}
_UNWRAPPED: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_INLINED: dict[str, Any] = {"forceinline": True}

allocating = njit(cache=True)
"""A compiled function that Python calls and that makes arrays."""
entry = njit(cache=True, **_UNCOUNTED)
"""A compiled function that Python calls; it allocates nothing."""
inner = njit(cache=True, **_UNCOUNTED, **_UNWRAPPED, **_INLINED)
"""One that only compiled code calls: without the wrappers for Python, which would take as long to compile again."""
