"""The command line: parse, call, render.  Start reading in :mod:`imgc.cli.main`."""
