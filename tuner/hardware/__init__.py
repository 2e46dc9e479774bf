"""The real engine as the expensive fidelity: runs, the corrected simulator, what the measurements allow to be said."""
