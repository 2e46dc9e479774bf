"""`profile measure`: what is sent to the engine, what is recorded, the profile that comes of it."""
