"""The map of resmeter: what flows where, and the words for it."""

__version__ = "0.1.0"
