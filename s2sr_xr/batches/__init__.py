"""Many items over one machine or a cluster: a block a task, resumable, with a report.

::

    report = s2sr_xr.batch("search.json", "out/", task="upsample")
    print(report)

`inputs` lists what is given, `task` says what is made of it, `driver` hands blocks out,
`workers` do them, `report` says what became of them, and `run` puts these together.
"""

from s2sr_xr.batches.report import BatchReport, Failure, ItemReport, Progress
from s2sr_xr.batches.run import batch
from s2sr_xr.readers.any import open_any

__all__ = ["BatchReport", "Failure", "ItemReport", "Progress", "batch", "open_any"]
