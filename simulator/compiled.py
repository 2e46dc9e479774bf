"""How the step loop is compiled: numba, cached on disk.

`_nrt=False` leaves numba's reference counting out: the loop allocates nothing, its arrays belong to the Python objects
that call it, and counting references to all of them at every call took four fifths of the time.
`forceinline` has LLVM inline the small functions into their callers: a call hands over each array of the engine in
seven pieces, a hundred and more words on the stack, which took two thirds of what was left.
"""

import sys
from typing import Any

from numba import njit

_BLAS = "scipy.linalg.cython_blas"
if _BLAS not in sys.modules:
    # numba imports scipy.linalg, which takes long, to learn whether compiled code may call numpy.cov
    # and numpy.corrcoef. Ours does not.
    sys.modules[_BLAS] = None  # type: ignore[assignment]  # so imports fail: the documentation of sys.modules
    import numba.np.arraymath  # noqa: F401

    del sys.modules[_BLAS]

_UNCOUNTED: dict[str, Any] = {"_nrt": False}
_UNWRAPPED: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_INLINED: dict[str, Any] = {"forceinline": True}

allocating = njit(cache=True)
"""A compiled function that Python calls and that makes arrays."""
entry = njit(cache=True, **_UNCOUNTED)
"""A compiled function that Python calls; it allocates nothing."""
inner = njit(cache=True, **_UNCOUNTED, **_UNWRAPPED, **_INLINED)
"""One that only compiled code calls: without the wrappers for Python, which would take as long to compile again."""
