"""Optimisation: parameter groups and the optimiser, the learning-rate schedule, the average of weights."""

from fmasearch.optim.averaging import WeightAverage
from fmasearch.optim.optimizers import build_optimizer
from fmasearch.optim.schedules import Schedule, build_schedule

__all__ = ["Schedule", "WeightAverage", "build_optimizer", "build_schedule"]
