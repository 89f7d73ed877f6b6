"""qarm: aligned item vectors, semantic IDs and a ranker from interaction logs.

The names listed in ``__all__`` are the API: their signatures change only with a line under
"Changed" in CHANGELOG.md. Every module below this package is internal and may change at any time.
``import qarm`` imports neither Spark nor torch; a name is imported when it is first used.

==================================  =============================================================
the pipeline                        ``load_config``, ``open_session``, ``run_pipeline``
reading its results                 ``open_lake``, ``load_encoder``
pairs, from frames of events        ``mine_user2item``, ``mine_swing``, ``mine_itemcf``
behaviour vectors, from events      ``train_id_vectors``
codes, from arrays of vectors       ``fit_residual``, ``fit_fsq``, ``Codebook``,
                                    ``assign_residual``, ``assign_anchors``
quality of codes, from arrays       ``evaluate_usage``, ``evaluate_collisions``,
                                    ``evaluate_reconstruction``
quality of a ranker, from a frame   ``evaluate_predictions``
errors                              ``QarmError``
==================================  =============================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qarm.codes.code_counts import collisions as evaluate_collisions
    from qarm.codes.code_counts import usage as evaluate_usage
    from qarm.codes.codebook import Codebook
    from qarm.codes.fsq_fit import fit_fsq
    from qarm.codes.residual import fit_residual
    from qarm.config.load import load as load_config
    from qarm.encoders.artifact import load as load_encoder
    from qarm.errors import QarmError
    from qarm.evaluation.ranking_metrics import evaluate as evaluate_predictions
    from qarm.evaluation.reconstruction import reconstruction as evaluate_reconstruction
    from qarm.lake.published import open_lake
    from qarm.pairs.id_vectors import train_id_vectors
    from qarm.pairs.itemcf import mine_itemcf
    from qarm.pairs.swing import mine_swing
    from qarm.pairs.user2item import mine_user2item
    from qarm.pipeline.runner import run_pipeline
    from qarm.session import open_session

__version__ = "0.1.0"

#: Public name -> module and name in it; the imports above, for type checkers, say the same.
_HOMES = {
    "Codebook": ("qarm.codes.codebook", "Codebook"),
    "QarmError": ("qarm.errors", "QarmError"),
    "evaluate_collisions": ("qarm.codes.code_counts", "collisions"),
    "evaluate_predictions": ("qarm.evaluation.ranking_metrics", "evaluate"),
    "evaluate_reconstruction": ("qarm.evaluation.reconstruction", "reconstruction"),
    "evaluate_usage": ("qarm.codes.code_counts", "usage"),
    "fit_fsq": ("qarm.codes.fsq_fit", "fit_fsq"),
    "fit_residual": ("qarm.codes.residual", "fit_residual"),
    "load_config": ("qarm.config.load", "load"),
    "load_encoder": ("qarm.encoders.artifact", "load"),
    "mine_itemcf": ("qarm.pairs.itemcf", "mine_itemcf"),
    "mine_swing": ("qarm.pairs.swing", "mine_swing"),
    "mine_user2item": ("qarm.pairs.user2item", "mine_user2item"),
    "open_lake": ("qarm.lake.published", "open_lake"),
    "open_session": ("qarm.session", "open_session"),
    "run_pipeline": ("qarm.pipeline.runner", "run_pipeline"),
    "train_id_vectors": ("qarm.pairs.id_vectors", "train_id_vectors"),
}

__all__ = [
    "Codebook",
    "QarmError",
    "__version__",
    "assign_anchors",
    "assign_residual",
    "evaluate_collisions",
    "evaluate_predictions",
    "evaluate_reconstruction",
    "evaluate_usage",
    "fit_fsq",
    "fit_residual",
    "load_config",
    "load_encoder",
    "mine_itemcf",
    "mine_swing",
    "mine_user2item",
    "open_lake",
    "open_session",
    "run_pipeline",
    "train_id_vectors",
]


def assign_residual(
    x: NDArray[np.floating[Any]], codebook: Codebook, *, threads: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Residual codes of vectors: nearest centroid, subtract it, next level.

    Args:
        x: (n, d) vectors.
        codebook: of the same d.
        threads: rows are divided among this many threads; the result does not depend on it.

    Returns:
        (n, L) codes; (n,) squared length of what is left after the last level.

    Raises:
        InputError: dimensions differ, or NaN or infinity.
    """
    return codebook.rq(x, threads=threads)


def assign_anchors(
    x: NDArray[np.floating[Any]], codebook: Codebook, k: int, *, threads: int = 1
) -> NDArray[np.int32]:
    """Ids (n, k) of the nearest anchors, nearest first, ties to the lower id.

    Args:
        x: (n, d) vectors.
        codebook: with at least k anchors of the same d.
        k: anchors per vector.
        threads: as in ``assign_residual``.

    Raises:
        InputError: dimensions differ, fewer than k anchors, or NaN or infinity.
    """
    return codebook.vq(x, k, threads=threads)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, inner = _HOMES[name]
    value = globals()[name] = getattr(import_module(module), inner)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
