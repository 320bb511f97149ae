"""`data prepare`: its commands and their options. Imports that cost time happen inside the commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

prepare_app = typer.Typer(help="Make a feature file from audio or from arrays.", no_args_is_help=True)


class Subset(StrEnum):
    small = "small"
    medium = "medium"
    large = "large"
    full = "full"


class PatrecDataset(StrEnum):
    genre = "genre"
    genre_beat = "genre_beat"
    multitask = "multitask"
    multitask_beat = "multitask_beat"


class Axes(StrEnum):
    NTF = "NTF"
    NFT = "NFT"


class Dtype(StrEnum):
    uint8 = "uint8"
    float16 = "float16"


Audio = Annotated[Path, typer.Option("--audio", help="Folder with the audio.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Feature file to write (HDF5).", show_default=False)]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="uint8: 256 levels, half the size; float16.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that read (default: one per core); 0: this one alone.", show_default=False),
]
FmaMetadata = Annotated[
    Path | None,
    typer.Option("--fma-metadata", help="FMA's unpacked fma_metadata, for its artists and splits.", show_default=False),
]
Seed = Annotated[int, typer.Option(help="Seed of the split, where one is made.")]
Fractions = Annotated[str, typer.Option(help="Shares of train, val and test, where a split is made.")]
Features = Annotated[str, typer.Option(help="Of mel, chroma, mel_beat, chroma_beat; separated by commas.")]
Seconds = Annotated[float, typer.Option(help="Length that clips are cut to; FMA's have 30.")]
SampleRate = Annotated[int, typer.Option(help="Hertz that audio is resampled to.")]
NMels = Annotated[int, typer.Option(help="Mel bins.")]
NFft = Annotated[int, typer.Option(help="Samples in a window.")]
HopLength = Annotated[int, typer.Option(help="Samples from one frame to the next.")]
FMin = Annotated[float, typer.Option(help="Lower edge of the mel bins, hertz.")]
FMax = Annotated[float | None, typer.Option(help="Upper edge (default: half the sample rate).", show_default=False)]


@prepare_app.command("fma")
def prepare_fma(
    audio: Audio,
    metadata: Annotated[Path, typer.Option("--metadata", help="FMA's unpacked fma_metadata.", show_default=False)],
    out: Out,
    subset: Annotated[Subset, typer.Option(help="Which tracks; each subset holds the smaller ones.")] = Subset.small,
    licence_filter: Annotated[
        list[str] | None,
        typer.Option(
            "--licence-filter",
            "--license-filter",
            metavar="PATTERN",
            help="Keep tracks of this licence: by, by-sa, cc0, ..., or words of it; may be repeated.",
            show_default=False,
        ),
    ] = None,
    features: Features = "mel",
    seconds: Seconds = 30.0,
    sample_rate: SampleRate = 22050,
    n_mels: NMels = 128,
    n_fft: NFft = 2048,
    hop_length: HopLength = 512,
    f_min: FMin = 0.0,
    f_max: FMax = None,
    dtype: DtypeOption = Dtype.uint8,
    workers: Workers = None,
) -> None:
    """Read the Free Music Archive: its audio, and labels, artists, licences and split from its metadata."""
    from fmasearch.cli import preparing
    from fmasearch.corpora.fma import read_fma

    output = preparing.Output(out, dtype.value, workers)
    reader = preparing.audio_reader(
        audio,
        features,
        seconds=seconds,
        sample_rate=sample_rate,
        n_mels=n_mels,
        n_fft=n_fft,
        hop_length=hop_length,
        f_min=f_min,
        f_max=f_max,
    )
    corpus = read_fma(audio, metadata, subset=subset.value, licence_filter=licence_filter)
    preparing.prepare(corpus, reader, output, root=audio)


@prepare_app.command("folders")
def prepare_folders(
    audio: Annotated[
        Path, typer.Option("--audio", help="Folder with a folder of audio per genre.", show_default=False)
    ],
    out: Out,
    groups: Annotated[
        Path | None,
        typer.Option(help="CSV of track and artist: whole artists go to one split.", show_default=False),
    ] = None,
    lists: Annotated[
        Path | None,
        typer.Option(help="Folder with train*.txt, val*.txt, test*.txt: a track a line.", show_default=False),
    ] = None,
    fractions: Fractions = "0.8,0.1,0.1",
    seed: Seed = 0,
    features: Features = "mel",
    seconds: Seconds = 30.0,
    sample_rate: SampleRate = 22050,
    n_mels: NMels = 128,
    n_fft: NFft = 2048,
    hop_length: HopLength = 512,
    f_min: FMin = 0.0,
    f_max: FMax = None,
    dtype: DtypeOption = Dtype.uint8,
    workers: Workers = None,
) -> None:
    """Read folders of audio, one per genre, as in GTZAN."""
    from fmasearch.cli import preparing
    from fmasearch.corpora.folders import read_folders

    output = preparing.Output(out, dtype.value, workers)
    reader = preparing.audio_reader(
        audio,
        features,
        seconds=seconds,
        sample_rate=sample_rate,
        n_mels=n_mels,
        n_fft=n_fft,
        hop_length=hop_length,
        f_min=f_min,
        f_max=f_max,
    )
    corpus = read_folders(
        audio,
        groups=groups,
        lists=preparing.split_lists(lists) if lists else None,
        seed=seed,
        fractions=preparing.numbers_of("--fractions", fractions),
    )
    preparing.prepare(corpus, reader, output, root=audio)


@prepare_app.command("patrec")
def prepare_patrec(
    root: Annotated[Path, typer.Option("--root", help="The course's data, or one data set of it.", show_default=False)],
    out: Out,
    dataset: Annotated[
        PatrecDataset | None, typer.Option(help="Which, if several are there.", show_default=False)
    ] = None,
    fma_metadata: FmaMetadata = None,
    val_fraction: Annotated[float, typer.Option(help="Share of the training tracks to validate on.")] = 0.2,
    seed: Seed = 0,
    dtype: DtypeOption = Dtype.uint8,
    workers: Workers = None,
) -> None:
    """Take over the spectrogram folders of NTUA's pattern recognition course: mel, chroma and labels."""
    from fmasearch.cli import preparing
    from fmasearch.corpora.patrec import genres_block, read_patrec

    output = preparing.Output(out, dtype.value, workers)
    corpus, reader = read_patrec(
        root,
        dataset=dataset.value if dataset else None,
        fma_metadata=fma_metadata,
        val_fraction=val_fraction,
        seed=seed,
    )
    preparing.prepare(corpus, reader, output, root=root)
    if any(track.classes for track in corpus.tracks):
        typer.echo(f"the course makes ten genres of its twenty; a space that does so begins with\n\n{genres_block()}")


@prepare_app.command("arrays")
def prepare_arrays(
    file: Annotated[Path, typer.Argument(help="HDF5 or NPZ file. Without --features: one array per track in it.")],
    out: Out,
    features: Annotated[
        str | None, typer.Option(metavar="KEY", help="Spectrograms of all tracks.", show_default=False)
    ] = None,
    axes: Annotated[Axes, typer.Option(help="Of the spectrograms: N tracks, T frames, F bins.")] = Axes.NTF,
    labels: Annotated[
        str | None, typer.Option(metavar="KEY", help="Class numbers or names.", show_default=False)
    ] = None,
    names: Annotated[
        str | None, typer.Option(metavar="KEY[@ATTRIBUTE]", help="Names of class numbers.", show_default=False)
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=KEY", help="Numbers to predict; may be repeated.", show_default=False),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="KEY", help="0, 1, 2 or train, val, test.", show_default=False)
    ] = None,
    ids: Annotated[str | None, typer.Option(metavar="KEY", help="Track ids.", show_default=False)] = None,
    artists: Annotated[str | None, typer.Option(metavar="KEY", help="Artists.", show_default=False)] = None,
    lengths: Annotated[
        str | None, typer.Option(metavar="KEY", help="Frames before padding.", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option(help="What to call the feature set.")] = "mel",
    unit: Annotated[str, typer.Option(help="Unit of its values; decibels begin with `dB`.")] = "as imported",
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option("--range", help="Lowest and highest value (default: look).", show_default=False),
    ] = None,
    fma_metadata: FmaMetadata = None,
    fractions: Fractions = "0.8,0.1,0.1",
    seed: Seed = 0,
    dtype: DtypeOption = Dtype.uint8,
    workers: Workers = None,
) -> None:
    """Take over spectrograms that somebody else made, with their labels."""
    from fmasearch.cli import preparing
    from fmasearch.corpora.arrays import read_arrays
    from fmasearch.corpora.stacked import ArraysLayout

    output = preparing.Output(out, dtype.value, workers)
    layout = None
    if features is not None:
        layout = ArraysLayout(
            features=features,
            axes=axes.value,
            labels=labels,
            names=names,
            targets=preparing.pairs_of("--target", target or ()),
            split=split,
            ids=ids,
            artists=artists,
            lengths=lengths,
            feature_name=name,
            unit=unit,
            value_range=value_range,
        )
    shares = preparing.numbers_of("--fractions", fractions)
    corpus, reader = read_arrays(file, layout=layout, fma_metadata=fma_metadata, seed=seed, fractions=shares)
    preparing.prepare(corpus, reader, output, root=file.parent)
