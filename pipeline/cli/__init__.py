"""Commands: each builds, runs and reports; none decides."""
