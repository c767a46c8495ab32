"""Where the files of a data set of texts lie, and reading them row by row: tables in CSV, and lines of text."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rflbat.errors import UserError
from rflbat.storage.untrusted import unpacked

Row = tuple[str, ...]

_WHOLE = 2**32  # bytes of one file, unpacked; Kaggle's Amazon reviews have 3 * 10^8
_LONGEST = 2**24  # characters of a line or a field


@dataclass(frozen=True)
class Origin:
    """Where the files of a data set come from and where they are looked for.

    Attributes:
        title: the data set, for messages.
        file: the file to get.
        address: where to get it.
        folders: names of folders below the data folder, which is searched first.

    Example:
        >>> Origin("the toys", "toys.csv", "example.org/toys", ("toys",)).hint(Path("data"))
        'get toys.csv from example.org/toys and put it in data/toys'
    """

    title: str
    file: str
    address: str
    folders: tuple[str, ...]

    def hint(self, root: Path | None = None) -> str:
        """End a message with where to get the file and where to put it."""
        name = self.folders[0]
        place = f"{root}/{name}" if root else f"DIR/{name}, DIR being the data folder (--data-dir)"
        return f"get {self.file} from {self.address} and put it in {place}"

    def root(self, data_dir: Path | None) -> Path:
        """Make the data folder an absolute path; a UserError where there is none."""
        if data_dir is None:
            raise UserError(f"{self.title} need a data folder; {self.hint()}")
        root = Path(os.path.abspath(data_dir.expanduser()))
        if not root.is_dir():
            raise UserError(f"{root}: there is no such folder; {self.hint(root)}")
        return root

    def places(self, root: Path) -> list[Path]:
        """List the folders that are searched, in order."""
        return [root, *(root / name for name in self.folders)]

    def tables(self, root: Path, pattern: str) -> list[Path]:
        """List the files of a name pattern, plain or .gz, folder by folder, by name; of ``X`` and ``X.gz`` only ``X``.

        Args:
            root: the data folder.
            pattern: name with ``*``, ``?`` and ``[...]`` as in a shell, upper and lower case distinguished.

        Returns:
            the files of all folders.

        Raises:
            UserError: a folder cannot be read.
        """
        found: list[Path] = []
        for folder in self.places(root):
            stems = {name.removesuffix(".gz") for name in listing(folder)}
            chosen = (plain_or_packed(folder, stem) for stem in sorted(stems) if fnmatchcase(stem, pattern))
            found += [path for path in chosen if path is not None]
        return found


def listing(folder: Path) -> list[str]:
    """List the names in a folder; none where there is no such folder.

    Args:
        folder: any path.

    Returns:
        names in no particular order.

    Raises:
        UserError: the folder cannot be read.

    Example:
        >>> listing(Path("no-such-folder"))
        []
    """
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error})") from error


def plain_or_packed(folder: Path, name: str) -> Path | None:
    """Find a file by its name, else by its name with ``.gz``; None where neither is there."""
    return next((path for tail in ("", ".gz") if (path := folder / f"{name}{tail}").is_file()), None)


def lines(path: Path, newline: str, hint: str, within: Path | None) -> Iterator[str]:
    r"""Read the lines of a text, plain or gzip, in pieces of at most 16,777,216 characters.

    Args:
        path: the file, in UTF-8; other bytes become lone surrogates ("surrogateescape").
        newline: how lines end, as in ``io.TextIOWrapper``; "" keeps every line break as it is.
        hint: ends the message of an error.
        within: folder of data sets; a link in it that leads out is refused.

    Yields:
        each line with its end; of a longer one its pieces, one after the other.

    Raises:
        UserError: the file cannot be read, is damaged or unpacks to more than 4 GiB.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "texts.txt"
        >>> _ = path.write_text("one\ntwo")
        >>> list(lines(path, "\n", "", None))
        ['one\n', 'two']
    """
    with unpacked(path, _WHOLE, hint, within) as content:
        stream = io.TextIOWrapper(content, "utf-8-sig", "surrogateescape", newline)
        while piece := stream.readline(_LONGEST):
            yield piece


def table(
    path: Path, needed: Sequence[str], optional: Sequence[str], hint: str, within: Path | None
) -> Iterator[Row | str]:
    r"""Read some columns of a CSV file in UTF-8 with a header, plain or gzip, row by row.

    Quoted fields may hold line breaks. Blank lines are no rows.

    Args:
        path: the file.
        needed: columns that must be there.
        optional: further columns; one that is missing reads as "".
        hint: ends the message of an error.
        within: folder of data sets; a link in it that leads out is refused.

    Yields:
        the fields of each row in the order asked for; or, of a row without them, the reason: "unreadable row" (a field
        of more than 16,777,216 characters) or "wrong number of fields".

    Raises:
        UserError: the file cannot be read, is damaged or lacks a column.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "toys.csv"
        >>> _ = path.write_text('id,label,text\n1,5,"Good, really"\n2,Odd\n')
        >>> list(table(path, ("text", "label"), ("author",), "", None))
        [('Good, really', '5', ''), 'wrong number of fields']
    """
    limit = csv.field_size_limit(_LONGEST)
    try:
        rows = csv.reader(lines(path, "", hint, within))
        try:
            header = [name.strip() for name in next(rows, [])]
        except csv.Error as error:
            raise UserError(f"{path}: its first line is not the header of a table ({error}); {hint}") from error
        missing = [name for name in needed if name not in header]
        if missing:
            found = repr(", ".join(header)[:80]) if header else "nothing"
            raise UserError(f"{path}: its first line lacks {' and '.join(missing)} (found: {found}); {hint}")
        columns = [header.index(name) if name in header else None for name in (*needed, *optional)]
        for row in _unbroken(rows):
            if row is None:
                yield "unreadable row"
            elif len(row) == len(header):
                yield tuple("" if column is None else row[column] for column in columns)
            elif row:
                yield "wrong number of fields"
    finally:
        csv.field_size_limit(limit)


def _unbroken(rows: Iterator[list[str]]) -> Iterator[list[str] | None]:
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error:
            yield None
