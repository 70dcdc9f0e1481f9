"""What the commands print: for each command with a table or a list, one module of the same name.

A command in `pipeline.cli` reads its options and makes one call. Its view turns the returned value
into lines, a table or JSON. `pipeline.cli.output` has what all views use: tables, wrapping, and
`visible`, which makes text from other programs safe to print.

A view only prints: it opens no file, ledger or topic, computes no bill, and does not set the exit
status. A command that prints a line or two has no view.
"""
