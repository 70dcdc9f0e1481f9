"""This file lets `python -m pipeline` be `resmeter`."""

from pipeline.cli import main

main()
