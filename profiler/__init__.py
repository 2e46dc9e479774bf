"""The real engine, and the profile of its step times."""
