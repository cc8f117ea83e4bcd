"""The command ``s2sr``: what the library does, from a shell.

A command is a function with `Annotated` arguments under ``@app.command()``, in a module
of its subject. Exit codes: 0 all is well, 1 something failed, 2 the call is wrong.
"""

from s2sr_xr.cli import demo, models, run, score, train
from s2sr_xr.cli.app import app

__all__ = ["app"]

del demo, models, run, score, train
