"""The command ``s2sr``: what the library does, from a shell.

A command is a function with `Annotated` arguments under ``@app.command()``, in a module
of its subject. Exit codes: 0 all is well, 1 something failed, 2 the call is wrong.
"""

from s2sr_xr.cli import _demo, _models, _run, _score, _train
from s2sr_xr.cli._app import app

__all__ = ["app"]

del _demo, _models, _run, _score, _train
