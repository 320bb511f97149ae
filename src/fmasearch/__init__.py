"""fmasearch: search architectures and hyperparameters for music models, and report them honestly."""

__version__ = "0.1.0"
