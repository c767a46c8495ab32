"""One simulation in several processes, the ranks: who trains which clients, who has which columns of the updates.

Every rank draws and decides the same; they talk by ``torch.distributed``: gloo between CPUs, NCCL between GPUs. Rank 0
alone touches the run folder and the terminal. Axes: N clients of the round, D parameters.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rflbat.errors import Stopped, UserError
from rflbat_kernels.sharding import Shard, sharded

PATIENCE = timedelta(seconds=300)
"""How long a rank waits for another that is silent. One that ends is noticed at once: its connections close."""
_HOW = {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}


class RankLost(Stopped):
    """Another rank has ended or does not answer: nothing can go on. Its own message says why."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that run one simulation; alone by default, and then nothing here communicates.

    Args:
        rank: its number, from 0.
        count: how many there are.

    Example:
        >>> Ranks().is_main, Ranks(1, 4).columns(10), Ranks(3, 4).columns(10), Ranks(1, 2).rows(7)
        (True, slice(3, 6, None), slice(9, 10, None), slice(3, 7, None))
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which keeps the books."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    def rows(self, total: int, rank: int | None = None) -> slice:
        """Give a rank's share of ``total`` rows in order: contiguous, and as even as can be.

        Args:
            total: how many.
            rank: whose; default this one's.

        Returns:
            its positions; empty where there are more ranks than rows.
        """
        rank = self.rank if rank is None else rank
        return slice(total * rank // self.count, total * (rank + 1) // self.count)

    def columns(self, total: int, rank: int | None = None) -> slice:
        """Give a rank's columns of ``total``: the same number for each, the last ones less or none.

        Args:
            total: D.
            rank: whose; default this one's.

        Returns:
            its positions.
        """
        rank = self.rank if rank is None else rank
        width = -(-total // self.count)
        return slice(min(total, rank * width), min(total, (rank + 1) * width))

    def width(self, total: int) -> int:
        """Count this rank's columns.

        Args:
            total: D.

        Returns:
            0 to D.
        """
        own = self.columns(total)
        return int(own.stop - own.start)

    def sharded_columns(self, total: int) -> AbstractContextManager[None]:
        """Let defenses and kernels work on this rank's columns of the updates inside a ``with`` block.

        Args:
            total: D.

        Returns:
            the block; one that changes nothing for a single process.
        """
        if self.is_single:
            return nullcontext()
        return sharded(Shard(self.columns(total).start, self.width(total), total, self.all_reduce))

    def all_reduce(self, part: Tensor, how: str = "sum") -> Tensor:
        """Bring together the tensors of all ranks, element by element, where they lie.

        Args:
            part: of the same shape and type on every rank; left as it is.
            how: "sum", "min" or "max".

        Returns:
            the same on every rank, to the last bit.
        """
        if self.is_single:
            return part
        whole = part.clone(memory_format=torch.contiguous_format)
        with _answering():
            dist.all_reduce(whole, _HOW[how])
        return whole

    def gather(self, own: Tensor, total: int) -> Tensor:
        """Put a vector together whose elements lie by the columns of the ranks.

        Args:
            own: this rank's columns.
            total: D.

        Returns:
            ``(D,)``, the same on every rank.
        """
        if self.is_single:
            return own
        width = -(-total // self.count)
        padded = torch.nn.functional.pad(own, (0, width - len(own)))
        whole = own.new_empty(self.count, width)
        with _answering():
            dist.all_gather(list(whole.unbind()), padded)
        return whole.view(-1)[:total]

    def all_to_all(self, rows_nD: Tensor, into_MW: Tensor, rows: Sequence[int]) -> None:
        """Send every rank its columns of the rows that this one has, and receive this one's columns of all rows.

        Args:
            rows_nD: this rank's rows, whole.
            into_MW: written to, contiguous: the rows of rank 0, then those of rank 1, ..., in this rank's W columns.
            rows: how many rows each rank has.
        """
        total, own = rows_nD.shape[1], into_MW.shape[1]
        parts = [rows_nD[:, self.columns(total, rank)] for rank in range(self.count)]
        packed = torch.cat([part.reshape(-1) for part in parts])
        received = [count * own for count in rows]
        with _answering():
            dist.all_to_all_single(into_MW.view(-1), packed, received, [part.numel() for part in parts])

    def gather_rows(self, own_nW: Tensor, total: int) -> Tensor:
        """Bring rows that lie by the columns of the ranks to rank 0.

        Args:
            own_nW: this rank's columns of them.
            total: D.

        Returns:
            ``(n, D)`` on rank 0, ``(n, 0)`` elsewhere.
        """
        rows, own = own_nW.shape
        widths = [width if self.is_main else 0 for width in self._widths(total)]
        whole = own_nW.new_empty(rows * sum(widths))
        with _answering():
            sent = [rows * own, *[0] * (self.count - 1)]
            dist.all_to_all_single(whole, own_nW.reshape(-1), [rows * width for width in widths], sent)
        parts = torch.split(whole, [rows * width for width in widths])
        return torch.cat([part.view(rows, width) for part, width in zip(parts, widths, strict=True)], 1)

    def scatter_rows(self, whole_nD: Tensor, rows: int, total: int) -> Tensor:
        """Give every rank its columns of rows that rank 0 has.

        Args:
            whole_nD: the rows on rank 0; elsewhere anything of their type and device.
            rows: how many they are.
            total: D.

        Returns:
            ``(n, W)``, this rank's columns.
        """
        own = self.width(total)
        parts = [whole_nD[:, self.columns(total, rank)] for rank in range(self.count)] if self.is_main else []
        packed = torch.cat([part.reshape(-1) for part in parts]) if parts else whole_nD.new_empty(0)
        sent = [rows * width if self.is_main else 0 for width in self._widths(total)]
        received = whole_nD.new_empty(rows * own)
        with _answering():
            dist.all_to_all_single(received, packed, [rows * own, *[0] * (self.count - 1)], sent)
        return received.view(rows, own)

    def _widths(self, total: int) -> list[int]:
        shares = [self.columns(total, rank) for rank in range(self.count)]
        return [share.stop - share.start for share in shares]

    def all_max(self, *numbers: float) -> list[float]:
        """Agree on the largest of each number over the ranks. They lie on the host; no device is waited for.

        Args:
            numbers: as many on every rank.

        Returns:
            the same on every rank.
        """
        if self.is_single:
            return list(numbers)
        return [float(number) for number in self.all_reduce(torch.tensor(numbers, dtype=torch.float64), "max")]

    def broadcast_object(self, value: Any = None) -> Any:
        """Let rank 0 tell the others something.

        Args:
            value: what JSON can hold; that of rank 0 counts.

        Returns:
            rank 0's value.
        """
        if self.is_single:
            return value
        text = torch.frombuffer(bytearray(json.dumps(value), "utf-8"), dtype=torch.uint8)
        length = torch.tensor(len(text) if self.is_main else 0)
        with _answering():
            dist.broadcast(length, 0)
            text = text if self.is_main else torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(text, 0)
        return json.loads(bytes(text.tolist()))

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Give every rank what rank 0 has, in place.

        Args:
            tensor: contiguous; of the same shape and type on every rank.

        Returns:
            the same tensor.
        """
        if not self.is_single:
            with _answering():
                dist.broadcast(tensor, 0)
        return tensor


SINGLE = Ranks()


def get_ranks() -> Ranks:
    """Give this process' place among the ranks: that of the process group, if there is one.

    Returns:
        its number, and how many there are.

    Example:
        >>> get_ranks()
        Ranks(rank=0, count=1)
    """
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size())
    return SINGLE


def from_environment() -> Ranks:
    """Give the place that the launcher of several processes, as ``torchrun``, says in the environment.

    Returns:
        rank and count; a process alone where nothing is said.

    Raises:
        UserError: what it says makes no sense.
    """
    said = {name: os.environ.get(name, str(default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1))}
    try:
        ranks = Ranks(int(said["RANK"]), int(said["WORLD_SIZE"]))
    except ValueError:
        ranks = Ranks(0, 0)
    if not 0 <= ranks.rank < ranks.count:
        told = ", ".join(f"{name}={value!r}" for name, value in said.items())
        raise UserError(f"the environment says {told}; allowed: WORLD_SIZE at least 1, RANK below it; see torchrun")
    return ranks


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the processes that a launcher such as ``torchrun`` has started; a process alone stays alone.

    On a host with GPUs the process takes the one of its LOCAL_RANK.

    Yields:
        this process' place.

    Raises:
        UserError: the environment makes no sense, or this host has fewer GPUs than processes.
        RankLost: the others do not come.

    Example:
        >>> with process_group() as ranks:
        ...     ranks.is_single
        True
    """
    ranks = from_environment()
    if ranks.is_single or (dist.is_available() and dist.is_initialized()):
        yield get_ranks()
        return
    with _answering():
        # Host numbers go by gloo in any case, so that agreeing on one waits for no device.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def take_device() -> None:
    """Take the GPU of this rank on its host: that of LOCAL_RANK.

    Raises:
        UserError: there are fewer GPUs than ranks here.
    """
    own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if own >= there:
        raise UserError(
            f"rank {own} of this host has no GPU of its own, {there} being there; take --nproc-per-node {there}, or "
            "--device cpu"
        )
    torch.cuda.set_device(own)


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what torch says of a rank that is gone into one line."""
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        said = re.sub(r"^\[\S*\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
        raise RankLost(
            f"another rank exited or stopped responding ({said}); the last checkpoint is complete, and `rflbat resume` "
            "continues from it"
        ) from error
