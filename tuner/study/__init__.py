"""A study: what was asked, every trial on disk, how trials compare and rank, and how settings are exported."""
