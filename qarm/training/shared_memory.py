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
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CONNECT_SECONDS = 10.0
_CREDENTIALS = struct.Struct("iII")
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
        cls, rank: int, world: int, gather: Callable[[Any], list[Any]], *, willing: bool = True
    ) -> SharedMemory | None:
        """Meet the other ranks; None on all of them where two cannot meet, or one is not willing.

        Args:
            rank, world: this rank, and how many there are.
            gather: gives every rank what each rank gave it, in the order of ranks.
            willing: whether this rank would.
        """
        with ExitStack() as opened:
            listener = _listen(opened, world) if willing and can_share() else None
            addresses = gather(listener.getsockname() if listener else None)
            # Each step is for all or for none, so that all ask each other equally often.
            peers = _call(rank, addresses[:rank]) if all(addresses) else None
            if all(gather(peers is not None)) and listener and peers is not None:
                peers = _answer(listener, peers, world)
                if all(gather(peers is not None)) and peers is not None:
                    return cls(rank, dict(sorted(peers.items())))
        _close(peers)
        return None

    def close(self) -> None:
        """Take part no more; others that still wait for this rank fail."""
        _close(self._peers)

    def sum(
        self, groups: Sequence[Sequence[Tensor]], name: str, weight: Tensor | None = None
    ) -> list[Tensor]:
        """Sums over ranks: a flat tensor for each group.

        Args:
            groups: each is tensors of one type, on the CPU; types and sizes are equal on all ranks.
            name: what for; equal on all ranks.
            weight: a number of float64; the sums are divided by its sum, which comes last. Where
                that is 0 they are multiplied by 0.

        Raises:
            ConnectionError: a rank is gone, or elsewhere.
        """
        import torch

        if not groups and weight is None:
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
        weights = self._agree(name, _digest(kinds, counts), weight)
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
        return sums if weight is None else [*sums, weight.new_tensor([weights])]

    def _agree(self, name: str, alike: int, weight: Tensor | None) -> float | None:
        """Meet for a sum of tensors ``alike``; the sum of all ranks' weights, if there are any."""
        # In the message, for what lies in the areas is changed as soon as all have met.
        bits = 0 if weight is None else _INTEGER.unpack(_FLOAT.pack(float(weight)))[0]
        digests, weights = zip(*self.meet(name, alike, bits), strict=True)
        self._check_alike(name, digests)
        if weight is None:
            return None
        return sum(_FLOAT.unpack(_INTEGER.pack(each))[0] for each in weights)

    def _check_alike(self, name: str, digests: Sequence[int]) -> None:
        for rank, digest in enumerate(digests):
            if digest != digests[self.rank]:
                raise ConnectionError(
                    f"rank {rank} has tensors of other types or shapes in {name!r} than rank "
                    f"{self.rank}"
                )

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
        alike = _digest(kinds, [tensor.shape[1:] for tensor in tensors])
        digests, *rows = zip(*self.meet(name, alike, *map(len, tensors)), strict=True)
        self._check_alike(name, digests)
        of_ranks = []
        for of_rank in zip(*rows, strict=True):
            counts = [row * width for row, width in zip(of_rank, widths, strict=True)]
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
            torch.cat(parts).reshape(sum(of_tensor), *tensor.shape[1:])
            for tensor, parts, of_tensor in zip(tensors, zip(*put, strict=True), rows, strict=True)
        ]
        if largest > _KEPT_BYTES:
            self._areas = []
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
                ours, theirs = (f"{name.decode()!r} (meeting {n})" for n, name in (here, there))
                raise ConnectionError(f"rank {rank} is in {theirs}, rank {self.rank} in {ours}")
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
        try:
            os.ftruncate(handles[self.rank], size)
            for peer in self._peers.values():
                socket.send_fds(peer, [_INTEGER.pack(size)], [handles[self.rank]])
            for rank, peer in self._peers.items():
                content, received, _, _ = socket.recv_fds(peer, _INTEGER.size, 1)
                handles.update((rank, handle) for handle in received)
                if not content:
                    raise ConnectionError(f"rank {rank} is gone")
                if not received or content != _INTEGER.pack(size):
                    raise ConnectionError(f"rank {rank} has tensors of other sizes, or no handles")
            return [mmap.mmap(handles[rank], size) for rank in sorted(handles)]
        finally:
            for handle in handles.values():
                os.close(handle)


def can_share() -> bool:
    """Whether this system has memory without a name, and lets us have it. Linux has."""
    try:
        os.close(os.memfd_create("qarm"))
    except (AttributeError, OSError):
        return False
    return True


def _digest(kinds: Sequence[torch.dtype], shapes: Sequence[Any]) -> int:
    """Differs where types or shapes do."""
    return zlib.crc32(repr((kinds, shapes)).encode())


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


def _listen(opened: ExitStack, world: int) -> socket.socket | None:
    """A socket for calls of the other ranks, closed with ``opened``; None where it cannot be."""
    listener = opened.enter_context(socket.socket(socket.AF_UNIX))
    try:
        listener.bind("")  # Linux finds a name that is free, outside the file system
        listener.listen(world)
    except OSError:
        return None
    return listener


def _call(rank: int, addresses: Sequence[Any]) -> dict[int, socket.socket] | None:
    """Connections to the ranks that listen there; None if one does not answer."""
    peers: dict[int, socket.socket] = {}
    try:
        for other, address in enumerate(addresses):
            peers[other] = peer = socket.socket(socket.AF_UNIX)
            peer.connect(address)
            peer.sendall(_INTEGER.pack(rank))
    except OSError:
        _close(peers)
        return None
    return peers


def _answer(
    listener: socket.socket, peers: dict[int, socket.socket], world: int
) -> dict[int, socket.socket] | None:
    """``peers`` and the ranks that have called; None if one has not. Others are not answered."""
    peers = dict(peers)
    listener.settimeout(_CONNECT_SECONDS)
    try:
        while len(peers) < world - 1:
            peer, _ = listener.accept()
            content = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            if _CREDENTIALS.unpack(content)[1] != os.geteuid():
                peer.close()
                continue
            peer.settimeout(_CONNECT_SECONDS)
            (other,) = _INTEGER.unpack(_receive(peer, _INTEGER.size, "a rank"))
            peer.settimeout(None)
            peers[other] = peer
    except OSError:
        _close(peers)
        return None
    return peers


def _close(peers: Mapping[int, socket.socket] | None) -> None:
    for peer in (peers or {}).values():
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
