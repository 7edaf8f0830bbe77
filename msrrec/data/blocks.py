"""Map functions over files or slices of tables: with Ray Data for large inputs, else directly.

The order is kept, and an error in the user's input is raised with its own message.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from msrrec import log
from msrrec.errors import DataError
from msrrec.log import Progress

if TYPE_CHECKING:
    import ray.data

_ERROR = "__error__"


def map_files(
    read: Callable[[str], pa.Table], paths: Sequence[str], name: str, on_ray: bool
) -> list[pa.Table]:
    """The tables that ``read`` makes of files, one task per file, in the order of ``paths``.

    Raises:
        DataError: The first file's error, as ``read`` raised it.
    """
    if not on_ray:
        return [read(path) for path in paths]
    import ray.data  # seconds to import

    dataset = ray.data.from_arrow([pa.table({"path": [path]}) for path in paths])
    return _collect(dataset, partial(_read_block, read), len(paths), name, "files")


def map_rows(
    parse: Callable[[pa.Table], pa.Table],
    table: pa.Table,
    rows_per_task: int,
    name: str,
    on_ray: bool,
) -> list[pa.Table]:
    """``parse`` applied to slices of a table, in order.

    Raises:
        DataError: The first slice's error, as ``parse`` raised it.
    """
    if not on_ray:
        return [parse(table)]
    import ray.data  # seconds to import

    starts = range(0, max(table.num_rows, 1), rows_per_task)
    dataset = ray.data.from_arrow([table.slice(start, rows_per_task) for start in starts])
    return _collect(dataset, partial(_guard, parse), len(starts), name, "parts")


def _collect(
    dataset: "ray.data.Dataset",
    task: Callable[[pa.Table], pa.Table],
    num_tasks: int,
    name: str,
    unit: str,
) -> list[pa.Table]:
    dataset.context.execution_options.preserve_order = True
    dataset.context.op_resource_reservation_enabled = False  # if on, half of the cores stay idle
    dataset.context.enable_progress_bars = False
    mapped = dataset.map_batches(
        task, batch_format="pyarrow", batch_size=None, zero_copy_batch=True
    )
    blocks = []
    with Progress(name, num_tasks, unit) as progress:
        for block in mapped.iter_batches(batch_size=None, batch_format="pyarrow"):
            if _ERROR in block.column_names:
                raise DataError(block[_ERROR][0].as_py())
            blocks.append(block)
            progress.advance()
    return blocks


def _read_block(read: Callable[[str], pa.Table], block: pa.Table) -> pa.Table:
    (path,) = block["path"].to_pylist()
    return _guard(read, path)


def _guard(function: Callable[[Any], pa.Table], argument: Any) -> pa.Table:
    """Return an error in the user's input as data, as Ray would wrap it in its own traceback."""
    log.setup()  # each worker is a separate process
    try:
        return function(argument)
    except DataError as error:
        return pa.table({_ERROR: [str(error)]})
