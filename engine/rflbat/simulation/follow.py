"""Following a run from another process, by the files it writes."""

from collections.abc import Callable, Iterator
from typing import Any

from rflbat.storage.lock import LOCK
from rflbat.storage.run_folder import RunFolder


def follow(folder: RunFolder, wait: Callable[[], object]) -> Iterator[dict[str, Any]]:
    """Give the rounds of a run as they are written, until it is finished or nobody writes it.

    A run that is resumed from an earlier round forgets the lines of later ones; they are given again.

    Args:
        folder: the run.
        wait: called while there is nothing new.

    Yields:
        the lines of rounds.jsonl, each with what timings.jsonl adds.

    Raises:
        UserError: a file of the run is damaged.
    """
    given = 0
    while True:
        # Looked at before the lines: what is written in between is seen in the next turn.
        over = folder.summary() is not None or not (folder.path / LOCK).exists()
        rounds = folder.rounds()
        # The line of timings.jsonl comes last: with it the round is complete.
        cost = {record["round"]: record for record in folder.timings()}
        given = min(given, len(rounds))
        while given < len(rounds) and rounds[given]["round"] in cost:
            yield {**rounds[given], **cost[rounds[given]["round"]]}
            given += 1
        if over:
            return
        wait()
