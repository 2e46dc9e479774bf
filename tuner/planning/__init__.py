"""Capacity planning: the highest rate of one engine, the replicas of a forecast, what-if scenarios."""
