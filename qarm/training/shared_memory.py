"""Sums over ranks that share one machine's memory, so that nothing is sent.

Horovod's ring sends gradients through sockets, at the cost of the cores that compute. Here each
rank puts its numbers where all others read them, adds up one share of what all have put there, and
takes the other shares from those who added them up. Shares are added in the order of ranks: every
rank gets the same bits.

Ranks wait for each other with a message over a Unix socket, which orders what they write and read.
Memory and sockets have no name in the file system and go with their processes, however those end; a
rank that is gone shows at once, by the end of its socket. What a rank puts down for the next sum
goes into the other half of its memory, for the others may still read this one.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_CONNECT_SECONDS = 10.0
_CREDENTIALS = struct.Struct("3i")
_MESSAGE = struct.Struct("<qdd")
"""Number of the meeting, and two numbers of the rank's own."""
_ALIGNED = 64


class SharedSum:
    """What the ranks of one machine add up. All call the same methods in the same order.

    Args:
        rank: this process's number.
        peers: a connection to each other rank.
    """

    def __init__(self, rank: int, peers: dict[int, socket.socket]) -> None:
        self.rank = rank
        self._peers = peers
        self._areas: list[mmap.mmap] = []
        self._half = 0
        self._meeting = 0

    @classmethod
    def connect(cls, rank: int, world: int, gather: Callable[[Any], list[Any]]) -> SharedSum | None:
        """Meet the other ranks; None on all of them where two cannot meet.

        Args:
            rank, world: this rank, and how many there are.
            gather: gives every rank what each rank gave it, in the order of ranks.
        """
        if sys.platform != "linux":  # no memory and no sockets without a name
            return None
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")  # Linux finds a name that is free
            listener.listen(world)
            peers = _call(rank, gather(listener.getsockname())[:rank])
            if all(gather(peers is not None)) and peers is not None:
                listener.settimeout(_CONNECT_SECONDS)
                while len(peers) < world - 1:
                    other, peer = _answer(listener)
                    peers[other] = peer
                return cls(rank, dict(sorted(peers.items())))
        for peer in (peers or {}).values():
            peer.close()
        return None

    def close(self) -> None:
        """Take part no more; others that still wait for this rank fail."""
        for peer in self._peers.values():
            peer.close()

    def sum(
        self, groups: Sequence[Sequence[Tensor]], numbers: tuple[float, float]
    ) -> tuple[list[Tensor], tuple[float, float]]:
        """Sums over ranks.

        Args:
            groups: each is tensors of one type, on the CPU; types and sizes are equal on all ranks.
            numbers: two more.

        Returns:
            A flat tensor for each group, this rank's own, and the sums of the numbers.

        Raises:
            ConnectionError: a rank is gone.
        """
        import torch

        placed = self._place(groups)
        for group, of_ranks in zip(groups, placed, strict=True):
            torch.cat([tensor.detach().reshape(-1) for tensor in group], out=of_ranks[self.rank])
        of_all = self._meet(numbers)
        world = len(self._areas)
        shares = [[of_ranks[k].tensor_split(world)[k] for k in range(world)] for of_ranks in placed]
        for own, of_ranks in zip(shares, placed, strict=True):
            first, second, *others = (
                numbers.tensor_split(world)[self.rank] for numbers in of_ranks
            )
            total = first + second
            for other in others:
                total += other
            own[self.rank].copy_(total)
        self._meet(numbers)
        sums = [torch.cat(of_ranks) for of_ranks in shares]
        return sums, (sum(one for one, _ in of_all), sum(other for _, other in of_all))

    def _place(self, groups: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """For each group a flat tensor in the memory of each rank, in the half that is free."""
        import torch

        counts = [sum(tensor.numel() for tensor in group) for group in groups]
        widths = [group[0].element_size() for group in groups]
        sizes = [-(-c * w // _ALIGNED) * _ALIGNED for c, w in zip(counts, widths, strict=True)]
        self._hold(sum(sizes))
        start = self._half * (len(self._areas[0]) // 2)
        self._half = 1 - self._half
        placed = []
        for group, count, width, size in zip(groups, counts, widths, sizes, strict=True):
            of_ranks = [memoryview(area)[start : start + count * width] for area in self._areas]
            kind = group[0].dtype
            placed.append(
                [
                    torch.frombuffer(b, dtype=kind) if count else torch.empty(0, dtype=kind)
                    for b in of_ranks
                ]
            )
            start += size
        return placed

    def _meet(self, numbers: tuple[float, float]) -> list[tuple[float, float]]:
        """Wait until all ranks are here; their numbers, in the order of ranks."""
        self._meeting += 1
        message = _MESSAGE.pack(self._meeting, *numbers)
        for rank, peer in self._peers.items():
            try:
                peer.sendall(message)
            except ConnectionError as error:
                raise ConnectionError(f"rank {rank} is gone") from error
        found = {self.rank: numbers}
        for rank, peer in self._peers.items():
            meeting, one, other = _MESSAGE.unpack(_receive(peer, _MESSAGE.size, f"rank {rank}"))
            if meeting != self._meeting:
                raise ConnectionError(
                    f"rank {rank} is at meeting {meeting}, rank {self.rank} at {self._meeting}"
                )
            found[rank] = one, other
        return [found[rank] for rank in sorted(found)]

    def _hold(self, size: int) -> None:
        """Have two halves of ``size`` bytes or more in the memory of each rank."""
        if self._areas and 2 * size <= len(self._areas[0]):
            return
        size = 2 * max(_ALIGNED, size)
        handles = {self.rank: os.memfd_create("qarm-gradients")}
        os.ftruncate(handles[self.rank], size)
        for peer in self._peers.values():
            socket.send_fds(peer, [b"!"], [handles[self.rank]])
        for rank, peer in self._peers.items():
            _, received, _, _ = socket.recv_fds(peer, 1, 1)
            if not received:
                raise ConnectionError(f"rank {rank} is gone")
            handles[rank] = received[0]
        self._areas = [mmap.mmap(handles[rank], size) for rank in sorted(handles)]
        for handle in handles.values():
            os.close(handle)


def _call(rank: int, addresses: Sequence[Any]) -> dict[int, socket.socket] | None:
    """Connections to the ranks that listen there; None if one does not answer."""
    peers: dict[int, socket.socket] = {}
    for other, address in enumerate(addresses):
        peers[other] = peer = socket.socket(socket.AF_UNIX)
        try:
            peer.connect(address)
            peer.sendall(_MESSAGE.pack(rank, 0.0, 0.0))
        except OSError:
            for peer in peers.values():
                peer.close()
            return None
    return peers


def _answer(listener: socket.socket) -> tuple[int, socket.socket]:
    """A rank that called, and the connection to it. Calls of other people are not taken."""
    while True:
        peer, _ = listener.accept()
        content = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(content)[1] == os.getuid():
            return _MESSAGE.unpack(_receive(peer, _MESSAGE.size, "a rank"))[0], peer
        peer.close()


def _receive(peer: socket.socket, size: int, who: str) -> bytes:
    """That many bytes."""
    content = b""
    while len(content) < size:
        try:
            more = peer.recv(size - len(content))
        except ConnectionError:  # it left without reading all
            more = b""
        if not more:
            raise ConnectionError(f"{who} is gone")
        content += more
    return content
