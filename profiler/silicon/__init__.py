"""Profiles from public kernel tables."""
