"""Locating the files of a text data set, and reading them row by row: CSV tables and lines of text."""

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

_WHOLE = 2**32  # maximum bytes of one file, unpacked; Kaggle's Amazon reviews have 3 * 10^8
_LONGEST = 2**24  # maximum characters of a line or a field


@dataclass(frozen=True)
class Origin:
    """Where the files of a data set come from and where they are searched.

    Attributes:
        title: name of the data set in messages.
        file: the file to get.
        address: where to get it.
        folders: names of subfolders of the data folder; the data folder itself is searched first.

    Example:
        >>> Origin("the toys", "toys.csv", "example.org/toys", ("toys",)).hint(Path("data"))
        'get toys.csv from example.org/toys and put it in data/toys'
    """

    title: str
    file: str
    address: str
    folders: tuple[str, ...]

    def hint(self, root: Path | None = None) -> str:
        """Return the end of an error message: where to get the file and where to put it."""
        name = self.folders[0]
        place = f"{root}/{name}" if root else f"DIR/{name}, where DIR is the data folder (--data-dir)"
        return f"get {self.file} from {self.address} and put it in {place}"

    def root(self, data_dir: Path | None) -> Path:
        """Return the data folder as an absolute path; raise UserError if there is none."""
        if data_dir is None:
            raise UserError(f"{self.title} need a data folder; {self.hint()}")
        root = Path(os.path.abspath(data_dir.expanduser()))
        if not root.is_dir():
            raise UserError(f"{root}: there is no such folder; {self.hint(root)}")
        return root

    def places(self, root: Path) -> list[Path]:
        """Return the folders to search, in order."""
        return [root, *(root / name for name in self.folders)]

    def tables(self, root: Path, pattern: str) -> list[Path]:
        """List the files that match a pattern, plain or .gz, by folder and name; if both exist, only the plain one.

        Args:
            root: the data folder.
            pattern: name with the wildcards ``*``, ``?`` and ``[...]``, case-sensitive.

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
    """List the names in a folder; the list is empty if the folder does not exist.

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
    """Return the file of this name, else the one with ``.gz`` appended; None if neither exists."""
    return next((path for tail in ("", ".gz") if (path := folder / f"{name}{tail}").is_file()), None)


def lines(path: Path, newline: str, hint: str, within: Path | None) -> Iterator[str]:
    r"""Read the lines of a text file, plain or gzip, in pieces of at most 16,777,216 characters.

    Args:
        path: the file, in UTF-8; invalid bytes become lone surrogates ("surrogateescape").
        newline: line endings as in ``io.TextIOWrapper``; "" leaves every line break unchanged.
        hint: end of every error message.
        within: folder of data sets; a link inside it that leads out is refused.

    Yields:
        each line with its line break; a longer line is yielded in several pieces.

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
    r"""Read selected columns of a CSV file in UTF-8 with a header, plain or gzip, row by row.

    Quoted fields may contain line breaks. Blank lines are ignored.

    Args:
        path: the file.
        needed: required columns.
        optional: further columns; a missing one reads as "".
        hint: end of every error message.
        within: folder of data sets; a link inside it that leads out is refused.

    Yields:
        the fields of each row in the requested order; for an unreadable row the reason instead: "unreadable row" (a
        field of more than 16,777,216 characters) or "wrong number of fields".

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
