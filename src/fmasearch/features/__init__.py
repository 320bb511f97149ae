"""Features: what a model hears, computed from audio."""
