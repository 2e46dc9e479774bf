"""The search: first configurations, suggestions by SMAC or at random, learned feasibility."""
