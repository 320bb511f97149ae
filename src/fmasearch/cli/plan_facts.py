"""The facts of a plan: what was counted, measured and foretold of a study."""

from __future__ import annotations

from dataclasses import dataclass

from fmasearch.cli.forecast import Forecast
from fmasearch.config import SearchConfig
from fmasearch.data import DataSpec, FileInfo
from fmasearch.planning import Packing, Probe, Sample, Sampling, SecondsModel, training_flops
from fmasearch.space import Space
from fmasearch.space.constraints import MEASURED


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `plan` prints."""

    space: Space
    search_name: str
    search: SearchConfig
    data: DataSpec
    info: FileInfo
    sampling: Sampling
    probes: tuple[Probe, ...]
    seconds: SecondsModel | None
    """What the probes give."""
    forecast: Forecast
    gpu_bytes: int | None
    """Memory of one GPU, as far as it is known."""
    packings: dict[str, Packing]
    """By size of the model: `median`, `90 %`."""

    def predicted(self, sample: Sample) -> float:
        """Seconds of one epoch, by the probes."""
        assert self.seconds is not None
        return self.seconds.seconds(sample.config.architecture, epoch_flops(sample, self.info))

    @property
    def too_slow(self) -> tuple[str, int] | None:
        """A ceiling on seconds of an epoch, and how many kept samples are predicted to break it."""
        ceiling = next((each for each in self.space.constraints if each.quantity in MEASURED), None)
        if ceiling is None or self.seconds is None:
            return None
        return str(ceiling), sum(not ceiling.holds(self.predicted(sample)) for sample in self.sampling.kept)


def epoch_flops(sample: Sample, info: FileInfo) -> float:
    """Of one epoch with its validation."""
    num_frames = info.feature(sample.config.features[0]).shape[1]
    num_train, num_val = (info.split_counts[split] for split in ("train", "val"))
    return training_flops(sample.config, sample.cost, num_train=num_train, num_val=num_val, num_frames=num_frames)
