"""slotune: find the vLLM settings that meet latency targets."""
