"""Measure rflbat, a plain loop and the peers on the same work: ``python -m benchmarks.speed``.

Without names all cases run, W1 to W6, which takes hours. Results go to ``benchmarks/speed/results``, one CSV per group
of cases, and into its page; rows of other cases are kept. A contender with a wrong result gets no time, and the command
then exits with status 1. It does the same if a case has no result at all.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.speed.measure import Rates, Row, read_csv, write_csv
from benchmarks.speed.peers.environments import PEERS
from benchmarks.speed.registry import cases, chosen
from benchmarks.speed.runner import Options, run
from benchmarks.speed.table import MACHINE, page, table_of, title_of
from rflbat.report.tables import to_rich

RESULTS = Path(__file__).parent / "results"
WIDTH = 200
"""Width of a table if the output is not a terminal."""


def keep(out: Path, rates: Rates, rows: Sequence[Row]) -> None:
    """Write new rows into the files; they replace rows of the same case and threads.

    If no contender of a case has a result, rows that were measured before are kept.

    Args:
        out: folder of the files.
        rates: rates of the machine.
        rows: rows of one case.
    """
    path, order = out / f"{rates.group}.csv", list(cases())
    before, new = read_csv(path, Row), {(row.case, row.threads) for row in rows}
    if nobody(rows) and any((row.case, row.threads) in new for row in before):
        return
    merged = [row for row in before if (row.case, row.threads) not in new] + list(rows)
    write_csv(path, sorted(merged, key=lambda row: (order.index(row.case) if row.case in order else -1, row.threads)))
    old = [
        each for each in read_csv(out / MACHINE, Rates) if (each.group, each.threads) != (rates.group, rates.threads)
    ]
    write_csv(out / MACHINE, sorted([*old, rates], key=lambda each: (each.group, each.threads)))


def nobody(rows: Sequence[Row]) -> bool:
    """Return whether no contender has a result."""
    return all(row.median is None for row in rows)


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    made.add_argument("cases", nargs="*", metavar="CASE", help="W1, W4, W4-krum, W4-krum-100x7850, ...; default all")
    made.add_argument("--threads", type=int, nargs="+", help="default by case: 1, or 1 and 2 for W1 to W3")
    made.add_argument("--repeats", type=int, help="repetitions of each contender; default by case")
    made.add_argument(
        "--peers", nargs="+", default=["auto"], metavar="PEER", help=f"auto (all), none, or some of {', '.join(PEERS)}"
    )
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the CSV files")
    made.add_argument("--page", action="store_true", help="only write the page from the CSV files")
    made.add_argument("--list", action="store_true", help="print the names of the cases")
    return made


def peers_of(words: Sequence[str]) -> Sequence[str] | None:
    """Read ``--peers``.

    Raises:
        ValueError: a word is not a peer.

    Example:
        >>> peers_of(["auto"]), peers_of(["none"]), peers_of(["pfl"])
        (None, [], ['pfl'])
    """
    if list(words) == ["auto"]:
        return None
    if list(words) == ["none"]:
        return []
    for word in words:
        if word not in PEERS:
            raise ValueError(f"no peer {word!r}; known: auto, none, {', '.join(PEERS)}")
    return list(words)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print and store; return the exit status."""
    options = parser().parse_args(words)
    try:
        picked = chosen(options.cases)
        measured = Options(options.threads, options.repeats, peers_of(options.peers))
        if min(options.threads or [1]) < 1 or (options.repeats is not None and options.repeats < 1):
            raise ValueError("--threads and --repeats must be at least 1")
    except ValueError as error:
        parser().error(str(error))
    if options.list:
        print("\n".join(case.name for case in picked))
        return 0
    console, wrong = Console(), []
    if not console.is_terminal:
        console.width = WIDTH
    if not options.page:
        for rates, rows in run(picked, measured, lambda line: console.log(line)):
            console.print(to_rich(table_of(rows, title_of(rows[0]))))
            keep(options.out, rates, rows)
            bad = rows if nobody(rows) else [row for row in rows if row.checked.startswith("wrong")]
            wrong += [f"{row.case}, {row.contender}: {row.checked}" for row in bad]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "README.md").write_text(page(options.out), encoding="utf-8")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
