"""Judges of pairs: models that read two items' texts and decide whether they belong together.

A judge is made by a function without arguments, named in ``pairs.filters.judge`` as
``package.module:function``. It is made once per Python worker, so that a model is loaded once, and
called with batches of texts. QARM V2 (arXiv 2602.08559) filters pairs by a language model; such a
model takes the place of the example below.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qarm.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

#: Smallest cosine of two texts about one subject.
_SAME_SUBJECT = 0.2


class PairJudge(Protocol):
    """Decides which pairs belong together."""

    def __call__(self, triggers: Sequence[str], targets: Sequence[str]) -> NDArray[np.bool_]:
        """(pairs,) whether to keep each pair, from the texts of its items."""


def shares_subject() -> PairJudge:
    """Keeps pairs whose texts are about one subject according to the packaged MiniLM encoder."""
    from qarm.config.encoder import Encoder
    from qarm.encoders.backbones import shared_backbone

    backbone = shared_backbone(Encoder().model_dump_json(), "text")

    def judge(triggers: Sequence[str], targets: Sequence[str]) -> NDArray[np.bool_]:
        texts, place = np.unique(np.array([*triggers, *targets], object), return_inverse=True)
        vectors = backbone.encode(texts.tolist())[place]
        cosines = np.einsum("pd,pd->p", vectors[: len(triggers)], vectors[len(triggers) :])
        kept: NDArray[np.bool_] = cosines >= _SAME_SUBJECT
        return kept

    return judge


@functools.lru_cache(maxsize=4)
def open_judge(name: str) -> PairJudge:
    """The judge that function ``name`` makes; made once per process.

    Raises:
        ConfigError: there is no such function.
    """
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"pairs.filters.judge is {name!r}; expected package.module:function, importable on "
            f"driver and executors ({error})"
        ) from error
    judge: PairJudge = make()
    return judge


def judge_batches(batches: Iterable[pa.RecordBatch], *, name: str) -> Iterator[pa.RecordBatch]:
    """Spark task: (trigger, target, trigger_text, target_text) -> (trigger, target, related).

    Raises:
        ConfigError: the judge returns another number of verdicts.
    """
    import pyarrow as pa

    judge = open_judge(name)
    for batch in batches:
        texts = [batch.column(k).to_pylist() for k in ("trigger_text", "target_text")]
        verdict = np.asarray(judge(*texts), dtype=bool) if batch.num_rows else np.zeros(0, bool)
        if verdict.shape != (batch.num_rows,):
            raise ConfigError(
                f"pairs.filters.judge {name!r} was called with {batch.num_rows} pairs and returned "
                f"an array of shape {verdict.shape}; expected one verdict per pair"
            )
        yield pa.RecordBatch.from_arrays(
            [batch.column("trigger"), batch.column("target"), pa.array(verdict)],
            names=["trigger", "target", "related"],
        )
