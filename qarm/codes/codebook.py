"""The codebook: an immutable, hashed set of residual levels and VQ anchors."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qarm.codes.anchor_index import AnchorIndex, build_index
from qarm.codes.anchors import nearest_k, prepare_anchors
from qarm.codes.kinds import KINDS
from qarm.codes.level_kind import LevelCoder, encode_last
from qarm.errors import InputError
from qarm.kernels.nearest import Centroids, Floats, Ints, as_matrix, encode, prepare

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Codebook:
    """Residual levels (kind ``rq``), anchors (kind ``vq``), or both.

    With a coder (such as kind ``fsq``), the last level is assigned by it, and its rows of
    ``levels`` are what each code stands for in vector space.

    Raises:
        InputError: no part, a level without centroids, dimensions that differ, NaN, anchors without
            items, or a coder whose codes are not those of the last level.
    """

    levels: tuple[Floats, ...] = ()
    """(K_l, d) centroids of each residual level; empty: no residual codes."""
    last: LevelCoder | None = None
    """Assigns the last level; None: nearest centroid, as the others."""
    anchors: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """(N, d) anchor vectors; no rows: no VQ codes."""
    anchor_items: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(N,) items.item_idx of each anchor; -1: not an item of the catalogue."""
    encoder_version: str = ""
    """Encoder of the vectors it was fitted on; empty: unknown."""
    fit: dict[str, Any] = field(default_factory=dict)
    """Fit parameters, as JSON can hold them."""
    given_id: str = ""
    """The user's own id; empty: the hash of the contents."""

    def __post_init__(self) -> None:
        levels = tuple(
            as_matrix(np.asarray(level), f"codebook, rq level {number}")
            for number, level in enumerate(self.levels)
        )
        anchors = as_matrix(np.asarray(self.anchors), "codebook, anchors")
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "anchors", anchors)
        parts = [*levels, *([anchors] if len(anchors) else [])]
        if not parts:
            raise InputError("the codebook is empty: it needs rq levels, vq anchors or both")
        widths = sorted({part.shape[1] for part in parts})
        if len(widths) > 1:
            raise InputError(
                f"vectors of a codebook must have one length, seen {widths}; rq levels: "
                f"{[level.shape for level in levels]}, anchors: {anchors.shape}"
            )
        if empty := [number for number, level in enumerate(levels) if len(level) == 0]:
            raise InputError(f"codebook: rq levels {empty} have no centroids")
        if self.last is not None:
            self.last.check(levels)
        if len(self.anchor_items) != len(anchors):
            raise InputError(
                f"codebook: {len(anchors)} anchors, but {len(self.anchor_items)} anchor items"
            )

    @property
    def kinds(self) -> list[str]:
        """``rq``, ``vq`` or both."""
        return ["rq"] * bool(self.levels) + ["vq"] * bool(len(self.anchors))

    @property
    def dimensions(self) -> int:
        """D."""
        return int((self.levels[0] if self.levels else self.anchors).shape[1])

    @property
    def sizes(self) -> list[int]:
        """Centroids of each residual level."""
        return [len(level) for level in self.levels]

    @cached_property
    def content_hash(self) -> str:
        """First 32 hex digits of the SHA-256 of vectors, anchor items, encoder and parameters."""
        digest = hashlib.sha256()
        about = {"encoder": self.encoder_version, "fit": self.fit, "format": FORMAT}
        digest.update(json.dumps(about, sort_keys=True).encode())
        arrays: list[NDArray[Any]] = [*self.levels, self.anchors, self.anchor_items]
        if self.last is not None:
            arrays += self.last.parts()
        for array in arrays:
            digest.update(f"{array.shape}{array.dtype.str}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    @property
    def codebook_id(self) -> str:
        """Its id in the tables."""
        return self.given_id or self.content_hash

    @cached_property
    def _ready_levels(self) -> list[Centroids]:
        by_centroid = self.levels if self.last is None else self.levels[:-1]
        return [prepare(level) for level in by_centroid]

    @cached_property
    def _ready_anchors(self) -> Centroids:
        return prepare_anchors(self.anchors)

    @cached_property
    def _ready_indexes(self) -> dict[int, AnchorIndex]:
        return {}

    def anchor_index(self, probes: int) -> AnchorIndex:
        """The anchors' approximate index, built once per process."""
        if probes not in self._ready_indexes:
            self._ready_indexes[probes] = build_index(self._ready_anchors, probes=probes)
        return self._ready_indexes[probes]

    def __getstate__(self) -> dict[str, Any]:
        """Without what each process can compute itself."""
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_ready")}

    def rq(self, x: NDArray[np.floating[Any]], *, threads: int = 1) -> tuple[Ints, Floats]:
        """Residual codes (n, L) and squared length of what is left (n,); see ``encode``."""
        self._check_dimensions(x)
        codes, left = encode(x, self._ready_levels, threads=threads)
        if self.last is None:
            return codes, left
        return encode_last(x, codes, self.levels, self.last, threads=threads)

    def vq(
        self, x: NDArray[np.floating[Any]], k: int, *, threads: int = 1, probes: int | None = None
    ) -> Ints:
        """Ids (n, k) of the nearest anchors; (n, 0) without anchors. See ``nearest_k``.

        With ``probes``, by the approximate index, which searches this many of its cells.
        """
        self._check_dimensions(x)
        if len(self.anchors) == 0:
            return np.empty((len(x), 0), np.int32)
        if probes is not None:
            return self.anchor_index(probes).search(x, k)
        return nearest_k(x, self._ready_anchors, k, threads=threads)

    def _check_dimensions(self, x: NDArray[np.floating[Any]]) -> None:
        if x.ndim != 2 or x.shape[1] != self.dimensions:
            raise InputError(
                f"codebook {self.codebook_id} is of {self.dimensions} dimensions, the vectors have "
                f"shape {x.shape}; use the codebook that was fitted on such vectors"
            )

    def to_rows(self) -> pa.Table:
        """Rows of table ``codebooks``."""
        import pyarrow as pa

        parts = [("rq", number, level) for number, level in enumerate(self.levels)]
        if self.last is not None:
            parts.append((self.last.kind, len(self.levels) - 1, self.last.rows()))
        if len(self.anchors):
            parts.append(("vq", 0, self.anchors))
        tables = []
        for kind, number, vectors in parts:
            n = len(vectors)
            items = pa.array(self.anchor_items) if kind == "vq" else pa.nulls(n, pa.int64())
            tables.append(
                pa.table(
                    {
                        "codebook_id": pa.array([self.codebook_id] * n),
                        "kind": pa.array([kind] * n),
                        "level": pa.array(np.full(n, number, np.int32)),
                        "code": pa.array(np.arange(n, dtype=np.int32)),
                        "item_idx": items,
                        "encoder_version": pa.array([self.encoder_version] * n),
                        "fit": pa.array([json.dumps(self.fit, sort_keys=True)] * n),
                        "vector": matrix_to_lists(vectors),
                    }
                )
            )
        return pa.concat_tables(tables)

    @classmethod
    def from_rows(cls, rows: pa.Table, where: str = "table codebooks") -> Codebook:
        """The codebook whose rows these are, in any order.

        Raises:
            InputError: no rows, rows of several codebooks or encoders, an unknown kind, a missing
                level or code, dimensions that differ, NaN, or a coder of another level than the
                last.
        """
        if rows.num_rows == 0:
            raise InputError(f"{where}: the codebook has no rows")
        for column in ("codebook_id", "encoder_version", "fit"):
            seen = sorted(str(v) for v in rows[column].unique().to_pylist())
            if len(seen) > 1:
                raise InputError(f"{where}: expected one {column}, seen {seen[:5]}")
        kinds = np.asarray(rows["kind"].to_pylist())
        levels, codes = rows["level"].to_numpy(), rows["code"].to_numpy()
        count = int(levels[kinds == "rq"].max(initial=-1)) + 1

        def part(kind: str, level: int) -> tuple[Floats, NDArray[np.int64]]:
            name = f"{where}, {kind} level {level}"
            here = np.flatnonzero((kinds == kind) & (levels == level))
            here = here[np.argsort(codes[here], kind="stable")]
            if len(here) == 0:
                raise InputError(f"{name}: missing; levels must be 0..{count - 1} without a gap")
            if not np.array_equal(codes[here], np.arange(len(here))):
                gap = int(np.argmax(codes[here] != np.arange(len(here))))
                raise InputError(
                    f"{name}: codes must be 0..{len(here) - 1}, each once; seen "
                    f"{int(codes[here][gap])} where {gap} should be"
                )
            chosen = rows.take(here)
            items = np.array([-1 if v is None else v for v in chosen["item_idx"].to_pylist()])
            return lists_to_matrix(chosen["vector"], name), items.astype(np.int64)

        fitted: dict[str, Any] = {}
        if (kinds == "vq").any():
            anchors, items = part("vq", 0)
            fitted = {"anchors": anchors, "anchor_items": items}
        for name in sorted({*kinds.tolist()} - {"rq", "vq"}):
            if name not in KINDS:
                known = ", ".join(["rq", "vq", *sorted(KINDS)])
                raise InputError(f"{where}: kind {name!r} is not known; expected one of {known}")
            of = np.unique(levels[kinds == name]).tolist()
            if of != [count - 1]:
                raise InputError(
                    f"{where}: rows of kind {name} belong to the last rq level, {count - 1}, whose "
                    f"rows say what its codes stand for; seen level {of}"
                )
            codes_of_last = int(((kinds == "rq") & (levels == count - 1)).sum())
            fitted["last"] = KINDS[name].from_rows(part(name, count - 1)[0], codes_of_last)
        codebook = cls(
            levels=tuple(part("rq", level)[0] for level in range(count)),
            encoder_version=rows["encoder_version"][0].as_py(),
            fit=json.loads(rows["fit"][0].as_py()),
            **fitted,
        )
        given = rows["codebook_id"][0].as_py()
        if given != codebook.content_hash:
            object.__setattr__(codebook, "given_id", given)
        return codebook

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        from safetensors.numpy import save

        about = {
            "format": str(FORMAT),
            "codebook_id": self.codebook_id,
            "encoder_version": self.encoder_version,
            "fit": json.dumps(self.fit, sort_keys=True),
        }
        arrays: dict[str, NDArray[Any]] = {f"rq.{n}": level for n, level in enumerate(self.levels)}
        if self.last is not None:
            arrays[KINDS[self.last.kind].array] = self.last.rows()
            about["last_kind"] = self.last.kind
        if len(self.anchors):
            arrays |= {"vq.anchors": self.anchors, "vq.item_idx": self.anchor_items}
        return save(arrays, metadata=about)

    @classmethod
    def from_bytes(cls, content: bytes, where: str = "codebook file") -> Codebook:
        """Read what ``to_bytes`` wrote; ``rq.0``, ``rq.1``, ... and ``vq.anchors`` are enough.

        The rows of a kind under its name make the last level one of that kind, such as
        ``fsq.projection`` (b or b + 1, d): the columns of W and optionally the origin.

        Raises:
            InputError: no safetensors file, a missing level, or contents that do not match the id.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(content)
            size = int.from_bytes(content[:8], "little")
            about = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        except (SafetensorError, ValueError) as error:
            raise InputError(f"{where} is no safetensors file: {error}") from error
        numbers = sorted(int(n[3:]) for n in arrays if n.startswith("rq.") and n[3:].isdigit())
        if numbers != list(range(len(numbers))):
            raise InputError(
                f"{where}: rq levels must be 0, 1, 2, ... without a gap, seen {numbers}"
            )
        anchors = arrays.get("vq.anchors", np.empty((0, 0), np.float32))
        items = arrays.get("vq.item_idx", np.full(len(anchors), -1, np.int64))
        if (name := about.get("last_kind", "")) and name not in KINDS:
            known = ", ".join(sorted(KINDS))
            raise InputError(f"{where}: kind {name!r} is not known; expected one of {known}")
        last = None
        for kind in KINDS.values():
            if (rows := arrays.get(kind.array)) is not None:
                if not numbers:
                    raise InputError(f"{where}: {kind.array} needs rq.0, rq.1, ...; there are none")
                last = kind.from_rows(rows, len(arrays[f"rq.{numbers[-1]}"]))
        codebook = cls(
            levels=tuple(arrays[f"rq.{number}"] for number in numbers),
            last=last,
            anchors=anchors,
            anchor_items=items,
            encoder_version=about.get("encoder_version", ""),
            fit=json.loads(about.get("fit", "{}")),
        )
        given = about.get("codebook_id", "")
        if given != codebook.content_hash:
            object.__setattr__(codebook, "given_id", given)
        return codebook


def matrix_to_lists(matrix: NDArray[Any]) -> pa.ListArray:
    """(n, d) as a list column of n lists; no copy of the values."""
    import pyarrow as pa

    n, d = matrix.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * d)
    return pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1)))


def lists_to_matrix(column: pa.Array | pa.ChunkedArray, where: str) -> NDArray[Any]:
    """A list column of n lists of one length as (n, d), without a loop over rows.

    Raises:
        InputError: a null, or lists of different lengths.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # no chunk at all
            column = pa.array([], column.type)
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    values = column.flatten()
    if None in lengths or values.null_count:
        raise InputError(f"{where}: a vector is null or has nulls in it; leave such rows out")
    if len(lengths) > 1:
        raise InputError(f"{where}: vectors must have one length, seen {sorted(lengths)[:5]}")
    width = lengths[0] if lengths else 0
    rows: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(len(column), width)
    return rows
