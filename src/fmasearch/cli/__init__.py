"""Commands, exit codes and the rendering of errors.

Exit codes: 0 done, 1 the work failed, 2 bad input, 130 interrupted and resumable.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script. Bad input becomes one message on stderr, never a traceback."""
    from fmasearch.cli.app import app
    from fmasearch.errors import FmasearchError

    try:
        app()
    except FmasearchError as error:
        from rich.console import Console
        from rich.markup import escape

        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
