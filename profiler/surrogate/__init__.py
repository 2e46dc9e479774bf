"""Step times fitted to step records, with their errors."""
