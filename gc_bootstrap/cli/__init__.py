"""``dask pool …`` and ``gc-bootstrap …``: thin commands over the library.

Belongs here: options, exit codes, tables. Does not belong here: anything a library user might
want to call.
"""

from gc_bootstrap.cli.main import pool

__all__ = ["pool"]
