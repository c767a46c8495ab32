"""Files that are either whole or not there, and JSON that every reader accepts."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Hand out a temporary path beside `path`, and put what was written there in the place of `path`.

    The file reaches the disk (fsync) before it takes its name (os.replace), so a crash at any moment leaves either the
    old file or the new one. An error inside the block leaves the old one and removes the temporary.

    Args:
        path: the file to replace; it need not exist, its folder must.
        previous: where the old file is kept, in the same folder. A crash may then leave it there alone, and no `path`.

    Yields:
        The path to write to; the block must create a file there.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    # One fixed name: what a killed process left is overwritten by the next write instead of piling up.
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)  # it may be a link to a file of somebody else
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text in which every NaN and infinity is null, since JSON has no word for them.

    Args:
        value: dicts, lists, tuples, strings, numbers, booleans and None, nested as one likes.
        indent: spaces per level; None writes one line.

    Returns:
        The text, without a final newline.

    Raises:
        TypeError: a value that JSON does not know, such as a tensor.

    Example:
        >>> to_json({"accuracy": float("nan"), "round": 3})
        '{"accuracy": null, "round": 3}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
