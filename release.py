"""Which slotune this is."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str:
    """The version that is installed; told in words where the package runs from its folder."""
    try:
        return version("slotune")
    except PackageNotFoundError:
        return "(not installed)"
