"""Sums and concatenations over ranks that share one machine's memory, so that nothing is sent.

Horovod's ring sends gradients through sockets, at the cost of the cores that compute. Here each
rank puts its numbers where all others read them, adds up one share of what all have put there, and
takes the other shares from those who added them up. Shares are added in the order of ranks: every
rank gets the same bits.

Ranks wait for each other with a message over a Unix socket, which orders what they write and read.
Memory and sockets have no name in the file system and go with their processes, however those end; a
rank that is gone shows at once, by the end of its socket. What a rank puts down next goes into the
other half of its memory, for the others may still read this one.
"""

from __future__ import annotations

import math
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CONNECT_SECONDS = 10.0
_CREDENTIALS = struct.Struct("3i")
_INTEGER, _FLOAT = struct.Struct("<q"), struct.Struct("<d")
_NAME_BYTES = 32
_HEAD = struct.Struct(f"<q{_NAME_BYTES}s")
"""Number of the meeting, and what for."""
_ALIGNED = 64
_KEPT_BYTES = 1 << 28


class SharedMemory:
    """What the ranks of one machine have in common. All call the same methods in the same order.

    Args:
        rank: this process's number.
        peers: a connection to each other rank.
    """

    def __init__(self, rank: int, peers: dict[int, socket.socket]) -> None:
        self.rank = rank
        self._peers = peers
        self._areas: list[mmap.mmap] = []
        self._half = 0
        self._meetings = 0

    @classmethod
    def connect(
        cls, rank: int, world: int, gather: Callable[[Any], list[Any]]
    ) -> SharedMemory | None:
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
        self, groups: Sequence[Sequence[Tensor]], name: str, weight: Tensor | None = None
    ) -> list[Tensor]:
        """Sums over ranks: a flat tensor for each group.

        Args:
            groups: each is tensors of one type, on the CPU; types and sizes are equal on all ranks.
            name: what for; equal on all ranks.
            weight: a number; the sums are divided by its sum, which comes last. By 0: zeros.

        Raises:
            ConnectionError: a rank is gone, or elsewhere.
        """
        import torch

        if not groups:
            return []
        counts = [sum(tensor.numel() for tensor in group) for group in groups]
        kinds = [group[0].dtype for group in groups]
        places, size = _places(counts, kinds)
        start = self._take(size)
        world = len(self._areas)
        of_groups = [
            [_view(area, kind, start + place, count) for area in self._areas]
            for place, count, kind in zip(places, counts, kinds, strict=True)
        ]
        for group, put in zip(groups, of_groups, strict=True):
            torch.cat([tensor.reshape(-1) for tensor in group], out=put[self.rank])
        weights = self._agree(name, size, weight)
        for put in of_groups:
            shares = [numbers.tensor_split(world)[self.rank] for numbers in put]
            own = shares[self.rank]
            # The first two ranks add in place: theirs is one of the first two numbers.
            total = torch.add(shares[0], shares[1], out=own if self.rank < 2 else None)
            for other in shares[2:]:
                total += other
            if weights is not None:  # here, where each rank has one share of it to do
                total *= 1.0 / weights if weights else 0.0
            if total is not own:
                own.copy_(total)
        self.meet(name)
        sums = [
            torch.cat([put[rank].tensor_split(world)[rank] for rank in range(world)])
            for put in of_groups
        ]
        self._give_back(size)
        return sums if weight is None else [*sums, weight.new_tensor([weights])]

    def _agree(self, name: str, size: int, weight: Tensor | None) -> float | None:
        """Meet for a sum of ``size`` bytes; the sum of all ranks' weights, if there are any."""
        # In the message, for what lies in the areas is changed as soon as all have met.
        bits = 0 if weight is None else _INTEGER.unpack(_FLOAT.pack(float(weight)))[0]
        sizes, weights = zip(*self.meet(name, size, bits), strict=True)
        if set(sizes) != {size}:
            raise ConnectionError(f"ranks sum tensors of other sizes, in bytes: {sizes}")
        if weight is None:
            return None
        return sum(_FLOAT.unpack(_INTEGER.pack(each))[0] for each in weights)

    def gather(self, tensors: Sequence[Tensor], name: str) -> list[Tensor]:
        """Each tensor of all ranks, concatenated along dimension 0 in the order of ranks.

        Args:
            tensors: on the CPU; first dimensions may differ between ranks, all else may not.
            name: what for; equal on all ranks.

        Raises:
            ConnectionError: a rank is gone, or elsewhere.
        """
        import torch

        if not tensors:
            return []
        kinds = [tensor.dtype for tensor in tensors]
        widths = [math.prod(tensor.shape[1:]) for tensor in tensors]
        of_ranks = []  # rows of each tensor
        for rows in self.meet(name, *(len(tensor) for tensor in tensors)):
            counts = [row * width for row, width in zip(rows, widths, strict=True)]
            of_ranks.append((counts, *_places(counts, kinds)))
        largest = max(size for _, _, size in of_ranks)
        start = self._take(largest)
        put = [
            [
                _view(area, kind, start + place, count)
                for place, count, kind in zip(places, counts, kinds, strict=True)
            ]
            for area, (counts, places, _) in zip(self._areas, of_ranks, strict=True)
        ]
        for tensor, place in zip(tensors, put[self.rank], strict=True):
            place.copy_(tensor.reshape(-1))
        self.meet(name)
        gathered = [
            torch.cat([part.reshape(-1, *tensor.shape[1:]) for part in parts])
            for tensor, parts in zip(tensors, zip(*put, strict=True), strict=True)
        ]
        self._give_back(largest)
        return gathered

    def meet(self, name: str, *numbers: int) -> list[tuple[int, ...]]:
        """Wait until all ranks are here; their numbers, in the order of ranks.

        Args:
            name: what for; equal on all ranks.
            numbers: as many on all ranks.

        Raises:
            ConnectionError: a rank is gone, or elsewhere.
        """
        self._meetings += 1
        here = self._meetings, name.encode()[:_NAME_BYTES]
        message = _HEAD.pack(*here) + struct.pack(f"<{len(numbers)}q", *numbers)
        for rank, peer in self._peers.items():
            try:
                peer.sendall(message)
            except ConnectionError as error:
                raise ConnectionError(f"rank {rank} is gone") from error
        found = {self.rank: numbers}
        for rank, peer in self._peers.items():
            meeting, name_there = _HEAD.unpack(_receive(peer, _HEAD.size, f"rank {rank}"))
            there = meeting, name_there.rstrip(b"\0")
            if there != here:
                raise ConnectionError(f"rank {rank} is in {there}, rank {self.rank} in {here}")
            content = _receive(peer, 8 * len(numbers), f"rank {rank}")
            found[rank] = struct.unpack(f"<{len(numbers)}q", content)
        return [found[rank] for rank in sorted(found)]

    def _take(self, size: int) -> int:
        """Where the free half begins, of at least ``size`` bytes; it is taken now."""
        if not self._areas or 2 * size > len(self._areas[0]):
            self._areas = self._new_areas(2 * max(mmap.PAGESIZE, 1 << (size - 1).bit_length()))
        self._half = 1 - self._half
        return self._half * (len(self._areas[0]) // 2)

    def _new_areas(self, size: int) -> list[mmap.mmap]:
        """``size`` bytes of each rank, which all can read and write; kept by who maps them."""
        handles = {self.rank: os.memfd_create("qarm")}
        os.ftruncate(handles[self.rank], size)
        for peer in self._peers.values():
            socket.send_fds(peer, [b"!"], [handles[self.rank]])
        for rank, peer in self._peers.items():
            _, received, _, _ = socket.recv_fds(peer, 1, 1)
            if not received:
                raise ConnectionError(f"rank {rank} is gone")
            handles[rank] = received[0]
        areas = [mmap.mmap(handles[rank], size) for rank in sorted(handles)]
        for handle in handles.values():
            os.close(handle)
        return areas

    def _give_back(self, size: int) -> None:
        """Let go of memory that only something rare and large needed."""
        if size > _KEPT_BYTES:
            self._areas = []


def _places(counts: Sequence[int], kinds: Sequence[torch.dtype]) -> tuple[list[int], int]:
    """Where so many numbers of each type begin, one after the other, and where all end."""
    places, end = [], 0
    for count, kind in zip(counts, kinds, strict=True):
        places.append(end)
        end += -(-count * kind.itemsize // _ALIGNED) * _ALIGNED
    return places, end


def _view(area: mmap.mmap, kind: torch.dtype, start: int, count: int) -> Tensor:
    """Numbers in shared memory, as a tensor."""
    import torch

    if not count:
        return torch.empty(0, dtype=kind)
    return torch.frombuffer(area, dtype=kind, count=count, offset=start)


def _call(rank: int, addresses: Sequence[Any]) -> dict[int, socket.socket] | None:
    """Connections to the ranks that listen there; None if one does not answer."""
    peers: dict[int, socket.socket] = {}
    for other, address in enumerate(addresses):
        peers[other] = peer = socket.socket(socket.AF_UNIX)
        try:
            peer.connect(address)
            peer.sendall(_INTEGER.pack(rank))
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
            return _INTEGER.unpack(_receive(peer, _INTEGER.size, "a rank"))[0], peer
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
