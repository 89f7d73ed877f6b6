"""Quality of codes: residual k-means against an RQ-VAE, and FSQ against a third k-means level.

    .venv/bin/qarm run --config conf/movielens-100k.toml --to embed-catalog
    .venv/bin/qarm run --config conf/amazon-scientific.toml --to embed-catalog
    .venv/bin/python benchmarks/code_quality.py [--part rqvae|fsq] [--lakes lake/movielens-100k
        lake/amazon-scientific] [--epochs 3000]

Reads vectors from the two lakes: text features of the catalogue (raw) and aligned vectors. One JSON
line a case on stdout; none where a lake is absent.

Part rqvae: 3 x 256 on the text vectors (MiniLM, unit length, d 384) of Amazon Scientific, a fifth
of the items held out. Both give a vector back from three codes; the error is the mean squared
distance to the vector that went in, in the same space. The vectors have length 1, so it is the
error relative to their squared length as well; ``centred`` is the error over that of the mean
vector alone. The peer (``rqvae_peer``) is tried in several variants, each trained until its
held-out error has not fallen by half a percent in 300 epochs and read off at the best point of its
curve, which the held-out items themselves choose: a favour that ours does not get. The best variant
counts.

Part fsq: two k-means levels, then a third of k-means or of FSQ with as many codes, fitted on items
of the training part alone, measured on all items. ``shared``: items whose code another item has.
``error``: squared distance from the vector to what its codes stand for, over its squared length.
``neighbours``: Jaccard overlap of an item's 20 nearest by vector and by what the codes stand for.
``kmeans_shrunk`` is a control: the third k-means level as ``codes.rq_shrink = "auto"`` makes it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rqvae_peer import Variant, train
from timing import say, timed

from qarm.codes.anchors import nearest_k, prepare_anchors
from qarm.codes.code_counts import collisions, usage
from qarm.codes.codebook import lists_to_matrix
from qarm.codes.fsq_fit import fit_fsq
from qarm.codes.kmeans import kmeans
from qarm.codes.level_kind import LevelFit, rest_after
from qarm.codes.residual import fit_residual, pseudo_points, reconstruct, shrunk
from qarm.config.codes import Codes
from qarm.kernels.nearest import encode, nearest, prepare

SIZES = (32, 64, 256)
VARIANTS = (
    Variant((512, 256, 128), 32, standardised=True),
    Variant((512, 256, 128), 64, standardised=True),
    Variant((512, 256, 128), 32, standardised=False),
    Variant((1024, 512, 256), 64, standardised=True),
)
ITERATIONS = Codes().rq_iterations


def read(lake: str) -> dict[str, np.ndarray] | None:
    """``raw`` (n, D) and ``aligned`` (n, d) vectors, and ``known`` (n,): in the training part."""
    if not Path(lake, "manifests", "embed-catalog.json").exists():
        say(f"{lake}: no vectors there; see --help for the command that makes them. Skipped")
        return None
    from pyspark.sql import functions as F

    from qarm.ingest.parts import training_parts
    from qarm.lake import manifest
    from qarm.lake.tables import Lake
    from qarm.session import open_session

    settings = {"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "2"}
    spark = open_session("code_quality", master="local[1]", settings=settings)
    root = str(Path(lake).resolve())
    store = Lake(spark, root)

    def table(name: str) -> Any:
        ref = manifest.pinned(root, name)
        assert ref is not None, name
        return store.read(ref)

    found = manifest.find(root, "ingest")
    assert found is not None
    learnt = F.max(F.col("part").isin(training_parts(found.facts)))
    seen = table("event_splits").groupBy("item_idx").agg(learnt.alias("known"))
    raw = table("item_features").where("modality = 'text'")
    rows = (
        table("item_embeddings")
        .select("item_idx", F.col("vector").alias("aligned"))
        .join(raw.select("item_idx", F.col("vector").alias("raw")), "item_idx")
        .join(seen, "item_idx", "left")
        .fillna(False, "known")
        .orderBy("item_idx")
        .toArrow()
    )
    vectors = {n: lists_to_matrix(rows[n], lake).astype(np.float32) for n in ("raw", "aligned")}
    return vectors | {"known": rows["known"].to_numpy(zero_copy_only=False).astype(bool)}


def line(case: str, **figures: Any) -> None:
    """One JSON line on stdout."""

    def rounded(value: Any) -> Any:
        if isinstance(value, list):
            return [rounded(v) for v in value]
        return round(value, 4) if isinstance(value, float) else value

    about = {"benchmark": "code_quality", "case": case}
    print(json.dumps(about | {k: rounded(v) for k, v in figures.items()}), flush=True)


def against_rqvae(
    x: np.ndarray, most_epochs: int, sizes: tuple[int, ...] = (256, 256, 256)
) -> None:
    """Residual k-means and the peer's variants on the same items."""
    order = np.random.default_rng(0).permutation(len(x))
    held_out, known = x[order[: len(x) // 5]], x[order[len(x) // 5 :]]
    centred = float(((held_out - known.mean(0)) ** 2).sum(1).mean())

    def use(codes: np.ndarray) -> dict[str, list[float]]:
        counts = [np.bincount(c, minlength=k) for c, k in zip(codes.T, sizes, strict=True)]
        levels = [usage(count) for count in counts]
        return {
            "utilisation": [level.utilisation for level in levels],
            "entropy": [level.entropy for level in levels],
        }

    case = f"{len(sizes)} x {sizes[0]}, {len(known)} items, {len(held_out)} held out"
    ours = {}
    for shrink, setting in (("auto", None), ("0", 0.0)):
        fitted = fit_residual(known, sizes, iterations=ITERATIONS, shrink=setting)
        codes, left = encode(held_out, [prepare(level) for level in fitted.levels])
        ours[shrink] = float(left.mean())
        line(
            f"residual k-means, shrink {shrink}, {case}",
            error=ours[shrink],
            centred=ours[shrink] / centred,
            error_fit=fitted.errors[-1],
            **use(np.concatenate([codes, fitted.codes])),
        )
    best: tuple[float, str] | None = None
    for variant in VARIANTS:
        found = train(known, held_out, variant, sizes, most_epochs=most_epochs, say=say)
        line(
            f"RQ-VAE {variant}, {case}",
            error=found.error,
            centred=found.error / centred,
            error_fit=found.fit_error,
            epochs=found.epochs,
            best_epoch=found.best_epoch,
            curve=[list(point) for point in found.curve[:: max(1, len(found.curve) // 12)]],
            **use(found.codes),
        )
        best = min(best or (np.inf, ""), (found.error, str(variant)))
    assert best is not None
    for shrink, error in ours.items():
        line(
            f"summary, shrink {shrink}, {case}",
            ours=error,
            peer=f"RQ-VAE {best[1]}",
            peer_error=best[0],
            ratio=best[0] / error,
            lower_by=1 - error / best[0],
        )


def against_kmeans(
    name: str, vectors: dict[str, np.ndarray], space: str
) -> list[tuple[str, int, int, int]]:
    """The third level of k-means and of FSQ; (space, items, shared by k-means, shared by FSQ)."""
    x, known = vectors[space], vectors["known"]
    squares = float((x.astype(np.float64) ** 2).sum(1).mean())
    by_vector = neighbours(x)
    found = []
    for size in SIZES:
        two = fit_residual(x[known], [size, size], iterations=ITERATIONS)
        prefix = encode(x, [prepare(level) for level in two.levels])[0]
        rest = rest_after(x, prefix, two.levels)
        third = kmeans(rest[known], size, iterations=ITERATIONS, seed=(0, 2)).centroids
        code, distances = nearest(rest[known], third)
        counts = np.bincount(code, minlength=size)
        soft = shrunk(third, counts, pseudo_points(third, counts, float(distances.mean())))
        fits: list[LevelFit] = []
        seconds = timed(lambda: fits.append(fit_fsq(rest[known], prefix[known], size)))  # noqa: B023
        last = {
            "kmeans": (nearest(rest, third)[0], third),
            "kmeans_shrunk": (nearest(rest, soft)[0], soft),
            "fsq": (fits[0].coder.encode(rest), fits[0].table),
        }
        figures: dict[str, Any] = {}
        shared = {}
        for kind, (code, table) in last.items():
            codes = np.concatenate([prefix, code[:, None]], axis=1)
            decoded = reconstruct(codes, [*two.levels, table])[-1]
            both = collisions(codes)
            shared[kind] = both.shared_items
            error = float(((x - decoded).astype(np.float64) ** 2).sum(1).mean()) / squares
            figures |= {
                f"{kind}_shared": both.shared_items,
                f"{kind}_shared_rate": both.shared_rate,
                f"{kind}_error": error,
                f"{kind}_neighbours": jaccard(by_vector, neighbours(decoded)),
                f"{kind}_used": len(np.unique(code)),
            }
        line(
            f"fsq, {name} {space}, 3 x {size}",
            items=len(x),
            change=shared["fsq"] / max(1, shared["kmeans"]) - 1,
            fsq_seconds=seconds,
            **figures,
        )
        found.append((space, len(x), shared["kmeans"], shared["fsq"]))
    return found


def neighbours(x: np.ndarray, k: int = 20) -> np.ndarray:
    """(n, k) nearest other items."""
    ids = nearest_k(x, prepare_anchors(x), k + 1)
    own = ids == np.arange(len(x))[:, None]
    own[~own.any(1), k] = True  # among equal vectors: the last one goes
    return ids[~own].reshape(len(x), k)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Mean Jaccard overlap of the rows of two sets of ids."""
    common = (a[:, :, None] == b[:, None, :]).sum((1, 2))
    return float((common / (2 * a.shape[1] - common)).mean())


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("rqvae", "fsq"))
    parser.add_argument(
        "--lakes", nargs=2, default=["lake/movielens-100k", "lake/amazon-scientific"]
    )
    parser.add_argument("--epochs", type=int, default=3000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = ("MovieLens-100k", "Scientific")
    read_all = {n: read(lake) for n, lake in zip(names, arguments.lakes, strict=True)}
    lakes = {n: vectors for n, vectors in read_all.items() if vectors is not None}
    if arguments.part != "rqvae":
        found = [
            row
            for name, vectors in lakes.items()
            for space in ("raw", "aligned")
            for row in against_kmeans(name, vectors, space)
        ]
        for space in ("raw", "aligned", ""):
            rows = [row for row in found if space in row[0]]
            items, theirs, ours = (sum(row[i] for row in rows) for i in (1, 2, 3))
            if rows:
                line(
                    f"fsq, pooled {space or 'all'}, {len(rows)} cases",
                    kmeans_shared=theirs,
                    fsq_shared=ours,
                    change=ours / theirs - 1,
                    kmeans_shared_rate=theirs / items,
                    fsq_shared_rate=ours / items,
                )
    if arguments.part != "fsq" and "Scientific" in lakes:
        against_rqvae(lakes["Scientific"]["raw"], arguments.epochs)


if __name__ == "__main__":
    main()
