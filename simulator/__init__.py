"""A pure model of the engine: scheduler, KV cache, step loop, replicas, metrics. Open engine.py first."""
