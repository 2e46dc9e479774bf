"""A pure model of the engine: scheduler, KV cache, step loop, replicas, metrics. Open simulation.py first, then
scheduler.py."""
