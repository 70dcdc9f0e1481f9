"""What the commands print: for each command with a table or a list, one module of the same name.

A command in `pipeline.cli` reads its options and makes one call. The view gets what that call
returned, and turns it into lines, a table or JSON. `output`, one folder up, has what all views use:
tables, wrapping, and `visible`, which makes text from other programs safe to print.

A view prints and returns; it opens nothing, computes no bill and never sets the exit status. A
command whose output is a line or two has no view.
"""
