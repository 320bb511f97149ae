"""The style table: what rhythm, sound and harmony a stand-in genre has.

Genre names are stand-ins for ten synthetic styles; nothing here claims to be their music. Each genre is three
cue families, because a track may borrow one of them from another genre: no single cue is enough to name it.

Drum and accompaniment patterns are one bar of 16 steps; a digit is the chance of a hit in ninths.
"""

from __future__ import annotations

from dataclasses import dataclass

CHORDS: dict[str, tuple[int, ...]] = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "5": (0, 7, 12),
    "7": (0, 4, 10),
    "m7": (0, 3, 7, 10),
    "M7": (0, 4, 7, 11),
    "m9": (0, 3, 10, 14),
    "9": (0, 4, 10, 14),
}
"""Semitones above the root, by quality."""

MAJORNESS = {"maj": 1.0, "7": 1.0, "M7": 1.0, "9": 1.0, "5": 0.5, "min": 0.0, "m7": 0.0, "m9": 0.0}
"""1 for major-like chords, 0 for minor-like; power chords have no third and count half."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When things sound."""

    tempo: float
    """Beats a minute, mean over tracks."""
    tempo_std: float
    swing: float
    """How far off-beats are late, in halves of a beat; a triplet shuffle is 0.33."""
    kick: str
    snare: str
    hat: str


@dataclass(frozen=True, slots=True)
class Sound:
    """What things sound like."""

    comp: str
    """Instrument of the accompaniment."""
    lead: str
    bass: str
    drive: float
    """Overdrive of accompaniment and lead; 0 is clean."""
    tilt: float
    """Spectral slope in half decibels an octave."""
    reverb_wet: float
    reverb_seconds: float
    """Time in which the room decays by 60 dB."""


@dataclass(frozen=True, slots=True)
class Harmony:
    """Which chords, and how they are played."""

    progressions: tuple[str, ...]
    """Chords as `root:quality`, the root in semitones above the key."""
    beats_per_chord: int
    comp: str
    """Name in `COMPS`."""
    bass: str
    """Name in `BASS_LINES`."""


@dataclass(frozen=True, slots=True)
class Comp:
    """How a chord is played. `hold` is the length of a note in beats; 0 holds it to the next chord."""

    steps: str
    hold: float
    arpeggio: bool = False
    """One chord tone after the other, instead of all at once."""


@dataclass(frozen=True, slots=True)
class Genre:
    name: str
    rhythm: Rhythm
    sound: Sound
    harmony: Harmony


COMPS: dict[str, Comp] = {
    "shuffle": Comp("9009900990099009", hold=0.4),
    "arpeggio": Comp("9090909090909090", hold=0.6, arpeggio=True),
    "offbeat": Comp("0090009000900090", hold=0.3),
    "strum": Comp("9040904490409044", hold=0.5),
    "pad": Comp("9000000000000000", hold=0.0),
    "stabs": Comp("0009000000900000", hold=0.35),
    "palm": Comp("9999999999999999", hold=0.18),
}

BASS_LINES: dict[str, Comp] = {
    "none": Comp("0000000000000000", hold=0.0),
    "root": Comp("9000000090000000", hold=1.5),
    "walk": Comp("9000900090009000", hold=0.9, arpeggio=True),
    "eighths": Comp("9090909090909090", hold=0.45),
    "offbeat": Comp("0090909000909090", hold=0.3),
    "sub": Comp("9000000400900000", hold=1.8),
}

_NO_DRUMS = "0" * 16
_BACKBEAT = "0000900000009000"
_EIGHTHS = "9090909090909090"

GENRES: tuple[Genre, ...] = (
    Genre(
        "Blues",
        Rhythm(96, 18, 0.28, "9000200090002000", _BACKBEAT, "9009900990099009"),
        Sound("electric_guitar", "electric_guitar", "finger_bass", 0.5, -4.0, 0.12, 0.5),
        Harmony(("0:7 0:7 5:7 0:7", "0:7 5:7 7:7 5:7"), 4, "shuffle", "walk"),
    ),
    Genre(
        "Classical",
        Rhythm(100, 24, 0.0, _NO_DRUMS, _NO_DRUMS, _NO_DRUMS),
        Sound("strings", "strings", "finger_bass", 0.0, -5.0, 0.35, 1.4),
        Harmony(("0:maj 7:maj 0:maj 5:maj", "0:min 7:maj 0:min 5:min"), 2, "arpeggio", "none"),
    ),
    Genre(
        "Electronic",
        Rhythm(124, 10, 0.0, "9000900090009000", "0000500000005000", "0090009000900090"),
        Sound("saw", "square", "saw_bass", 0.15, -2.5, 0.15, 0.7),
        Harmony(("0:min 0:min 8:maj 10:maj", "0:min 0:min 3:maj 3:maj"), 4, "offbeat", "offbeat"),
    ),
    Genre(
        "Folk",
        Rhythm(108, 20, 0.06, "3000000020000000", "0000100000001000", "2000200020002000"),
        Sound("plucked", "flute", "finger_bass", 0.0, -4.0, 0.12, 0.6),
        Harmony(("0:maj 5:maj 0:maj 7:maj", "0:maj 9:min 5:maj 7:maj"), 4, "strum", "root"),
    ),
    Genre(
        "Hip-Hop",
        Rhythm(92, 9, 0.14, "9003002090300020", _BACKBEAT, "9090909290909394"),
        Sound("electric_piano", "electric_piano", "sub_bass", 0.15, -5.0, 0.06, 0.4),
        Harmony(("0:m7 0:m7 5:m7 5:m7", "0:m7 8:M7 0:m7 7:m7"), 4, "pad", "sub"),
    ),
    Genre(
        "Jazz",
        Rhythm(132, 26, 0.30, "2000000020001000", "0120021001200210", "9000902090009020"),
        Sound("electric_piano", "flute", "finger_bass", 0.0, -5.0, 0.15, 0.7),
        Harmony(("2:m9 7:9 0:M7 9:m7", "0:M7 9:m7 2:m9 7:9"), 2, "stabs", "walk"),
    ),
    Genre(
        "Metal",
        Rhythm(138, 18, 0.0, "9797979797979797", _BACKBEAT, "9000900090009000"),
        Sound("distorted", "distorted", "pick_bass", 3.0, -2.5, 0.06, 0.4),
        Harmony(("0:5 1:5 0:5 1:5", "0:5 8:5 10:5 0:5", "0:5 6:5 0:5 5:5"), 2, "palm", "eighths"),
    ),
    Genre(
        "Pop",
        Rhythm(112, 12, 0.0, "9000004090000040", _BACKBEAT, _EIGHTHS),
        Sound("saw", "square", "pick_bass", 0.1, -3.0, 0.12, 0.6),
        Harmony(("0:maj 7:maj 9:min 5:maj", "9:min 5:maj 0:maj 7:maj"), 4, "strum", "eighths"),
    ),
    Genre(
        "Rock",
        Rhythm(122, 16, 0.0, "9000000490900000", _BACKBEAT, "9050905090509050"),
        Sound("distorted", "electric_guitar", "pick_bass", 1.2, -3.0, 0.10, 0.5),
        Harmony(("0:5 5:5 10:5 5:5", "0:5 10:5 5:5 0:5"), 4, "strum", "eighths"),
    ),
    Genre(
        "Trip-Hop",
        Rhythm(84, 9, 0.12, "9002000004900000", _BACKBEAT, "9593959395939593"),
        Sound("strings", "electric_piano", "sub_bass", 0.1, -5.5, 0.30, 1.2),
        Harmony(("0:m9 8:M7", "0:m9 5:m9"), 8, "pad", "sub"),
    ),
)
