"""Follow a run of another process through the files that it writes."""

from collections.abc import Callable, Iterator
from typing import Any

from rflbat.storage.lock import LOCK
from rflbat.storage.run_folder import RunFolder


def follow(folder: RunFolder, wait: Callable[[], object]) -> Iterator[dict[str, Any]]:
    """Yield the rounds of a run as they are written, until it is finished or no process is writing this run.

    A run that resumes from an earlier round drops the lines of later rounds; their new lines are yielded again.

    Args:
        folder: the run.
        wait: called while there is no new line.

    Yields:
        the lines of rounds.jsonl, each merged with its line of timings.jsonl.

    Raises:
        UserError: a file of the run is damaged.
    """
    given = 0
    while True:
        # Checked before reading the lines, so that lines written in between are not missed.
        over = folder.summary() is not None or not (folder.path / LOCK).exists()
        rounds = folder.rounds()
        # The line of timings.jsonl is written last, so with it the round is complete.
        cost = {record["round"]: record for record in folder.timings()}
        given = min(given, len(rounds))
        while given < len(rounds) and rounds[given]["round"] in cost:
            yield {**rounds[given], **cost[rounds[given]["round"]]}
            given += 1
        if over:
            return
        wait()
