"""The best few of a search, looked at more closely before one of them is recommended."""
