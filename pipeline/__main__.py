"""Run the command line with `python -m pipeline`."""

from pipeline.cli import main

main()
