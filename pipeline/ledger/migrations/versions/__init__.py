"""One numbered file for each revision."""
