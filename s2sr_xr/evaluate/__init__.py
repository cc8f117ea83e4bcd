"""How good a result is, and how it looks: tables of scores, and pictures."""

from s2sr_xr.evaluate.fidelity import fidelity_page
from s2sr_xr.evaluate.figures import before_after, detailed
from s2sr_xr.evaluate.scores import Row, Scores, compare, relative_rmse, score, table

__all__ = [
    "Row",
    "Scores",
    "before_after",
    "compare",
    "detailed",
    "fidelity_page",
    "relative_rmse",
    "score",
    "table",
]
