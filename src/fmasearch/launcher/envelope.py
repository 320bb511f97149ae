"""The envelope: marks around a command's output that tell it, and its exit code, from what the launcher says.

`ray exec` prints lines of its own around the output, and ends with 1 whatever the command's exit code was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# The record separator does not occur in text. The command writes it as `\036`, so an echo of the command is no mark.
_BEGIN = b"\x1efmasearch:begin\x1e"
_END = re.compile(rb"\x1efmasearch:end:(\d+)\x1e")
_LONGEST_END = len(b"\x1efmasearch:end:255\x1e")


def enveloped(command: str, *, on_terminal: bool, columns: int = 120) -> str:
    """The bash command that runs `command` between marks.

    Args:
        on_terminal: leave it the terminal that ssh gives it; otherwise it sees a pipe, its output arrives byte for
            byte, without colours, and standard error is part of it.
        columns: how wide a table may be where there is no terminal.
    """
    # Without a trap, Ctrl-C would end the outer shell too, and the exit code would be lost.
    begin, end = r"printf '\036fmasearch:begin\036'", r"""printf '\036fmasearch:end:%d\036' "$?" """.strip()
    if on_terminal:
        return f"trap : INT; {begin}; ( trap - INT; {command} ); {end}"
    # ssh gives every command a terminal, which would turn each line's end into two characters.
    plain = f"stty -opost 2>/dev/null; export PYTHONUNBUFFERED=1 NO_COLOR=1 TERM=dumb COLUMNS={columns}"
    return f'{plain}; {begin}; ( {{ {command} ; }} 2>&1 </dev/null | cat; exit "${{PIPESTATUS[0]}}" ); {end}'


@dataclass(slots=True)
class Envelope:
    """Reads what `ray exec` prints, piece by piece."""

    begun: bool = False
    exit_code: int | None = None
    chatter: bytearray = field(default_factory=bytearray)
    """What the launcher said before and after."""

    _held: bytes = b""

    def feed(self, piece: bytes) -> bytes:
        """The part of the command's output that is known to be such after this piece."""
        self._held += piece
        if not self.begun:
            before, mark, after = self._held.partition(_BEGIN)
            if not mark:
                return b""
            self.chatter += before
            self.begun, self._held = True, after
        if self.exit_code is not None:
            self.chatter += self._held
            self._held = b""
            return b""
        return self._inside()

    def finish(self) -> bytes:
        """The rest, when nothing more comes."""
        rest, self._held = self._held, b""
        if self.begun and self.exit_code is None:
            return rest
        self.chatter += rest
        return b""

    def _inside(self) -> bytes:
        found = _END.search(self._held)
        if found:
            output = self._held[: found.start()]
            self.exit_code = int(found[1])
            self.chatter += self._held[found.end() :]
            self._held = b""
            return output
        start = self._held.rfind(b"\x1e", max(0, len(self._held) - _LONGEST_END))
        known = len(self._held) if start < 0 else start  # the tail may be a mark of which more is to come
        output, self._held = self._held[:known], self._held[known:]
        return output
