"""The real engine: started, watched, driven, diagnosed, stopped."""
