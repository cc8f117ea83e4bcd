"""Many items over one machine or a cluster: a block a task, resumable, with a report.

::

    report = s2sr_xr.batch("search.json", "out/", task="upsample")
    print(report)

`inputs` tells what is given, `work` is one block, `crews` do blocks, `drive` hands them
out by the rules of `pieces`, `outcome` says what became of them, and `many` puts these
together.
"""

from s2sr_xr.batches.report import BatchReport, Failure, ItemReport, Progress
from s2sr_xr.batches.run import batch
from s2sr_xr.readers.any import open_any

__all__ = ["BatchReport", "Failure", "ItemReport", "Progress", "batch", "open_any"]
