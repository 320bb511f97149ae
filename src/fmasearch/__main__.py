"""`python -m fmasearch`."""

from fmasearch.cli import main

main()
