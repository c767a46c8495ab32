"""Atomic file replacement and strict JSON."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Replace a file atomically: yield a temporary path next to ``path``, then rename it to ``path``.

    The file is synced to disk (fsync) before it is renamed (``os.replace``), so a crash at any moment leaves either
    the old file or the new one. An error inside the block keeps the old file and removes the temporary one.

    Args:
        path: the file to replace; it need not exist, but its folder must.
        previous: path in the same folder under which the old file is kept. After a crash between the two renames, the
            old file exists under this name only and ``path`` does not exist.

    Yields:
        the path to write to; the block must create a file at this path.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with replacing(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    # The name is fixed, so the next write overwrites what a killed process left instead of adding another file.
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)  # it may be a link to an unrelated file
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
    """Serialize to JSON, with every NaN and infinity as null, because JSON cannot represent them.

    Args:
        value: dicts, lists, tuples, strings, numbers, booleans and None, nested to any depth.
        indent: spaces per level; None writes one line.

    Returns:
        the text, without a final newline.

    Raises:
        TypeError: a value has a type that JSON does not support, such as a tensor.

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
