"""The demo: the whole pipeline once, over 200 real support conversations.

Worker, sink and emulator run as the processes that they are in production, on a real broker. What
it shows is read from where a user would read it: the ledger, the emulator's sums, `/metrics`.

What holds: it leaves no process behind, however it ends, and does not touch what is not its own:
topics, groups, folder and ports are those of one run.

What it does not do: decide or bill. Remove this folder, and nothing else changes.
"""
