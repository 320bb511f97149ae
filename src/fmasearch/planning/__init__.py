"""What a study will cost, before it is started: sizes of samples, seconds of an epoch, epochs that are trained."""

from fmasearch.planning.curves import Curves, recorded_curves, synthetic_curves
from fmasearch.planning.memory import Packing, data_bytes, pack
from fmasearch.planning.probe import Probe, choose_probes, measure
from fmasearch.planning.samples import Sample, Sampling, draw_samples
from fmasearch.planning.seconds import FASTEST, SLOWEST, SecondsModel, fit_seconds, training_flops
from fmasearch.planning.simulation import (
    Expectation,
    Outcome,
    Range,
    SimulatedTrial,
    drawn_from_records,
    drawn_from_samples,
    expect,
    simulate,
)

__all__ = [
    "FASTEST",
    "SLOWEST",
    "Curves",
    "Expectation",
    "Outcome",
    "Packing",
    "Probe",
    "Range",
    "Sample",
    "Sampling",
    "SecondsModel",
    "SimulatedTrial",
    "choose_probes",
    "data_bytes",
    "draw_samples",
    "drawn_from_records",
    "drawn_from_samples",
    "expect",
    "fit_seconds",
    "measure",
    "pack",
    "recorded_curves",
    "simulate",
    "synthetic_curves",
    "training_flops",
]
