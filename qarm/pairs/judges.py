"""Judges of pairs: models that look at two items' texts and say whether they belong together.

A judge is made by a function of its settings, named in ``pairs.filters.judge`` as
``package.module:function``, once a Python worker (so that a model is loaded once), and called with
batches of texts. QARM V2 (arXiv 2602.08559) filters pairs by a language model; such a model takes
the same place as the example below.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qarm.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa


class PairJudge(Protocol):
    """Says which pairs belong together."""

    def __call__(self, triggers: Sequence[str], targets: Sequence[str]) -> NDArray[np.bool_]:
        """(pairs,) whether to keep each pair, from the texts of its items."""


def shares_subject(settings: Mapping[str, Any]) -> PairJudge:
    """Keeps pairs whose texts a sentence encoder takes for the same subject.

    Each pair is read as two sentences by the packaged MiniLM.

    Args:
        settings: min_cosine (default 0.2), text_backbone and max_tokens as in section encoder.
    """
    from qarm.config.encoder import Encoder
    from qarm.encoders.backbones import shared_backbone

    least = float(settings.get("min_cosine", 0.2))
    own = {k: settings[k] for k in ("text_backbone", "max_tokens") if k in settings}
    backbone = shared_backbone(Encoder.model_validate(own).model_dump_json(), "text")

    def judge(triggers: Sequence[str], targets: Sequence[str]) -> NDArray[np.bool_]:
        texts, place = np.unique(np.array([*triggers, *targets], object), return_inverse=True)
        vectors = backbone.encode(texts.tolist())[place]
        cosines = np.einsum("pd,pd->p", vectors[: len(triggers)], vectors[len(triggers) :])
        kept: NDArray[np.bool_] = cosines >= least
        return kept

    return judge


@functools.lru_cache(maxsize=4)
def open_judge(name: str, settings_json: str) -> PairJudge:
    """The judge that ``name`` makes of the settings; one a process.

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
    judge: PairJudge = make(json.loads(settings_json))
    return judge


def judge_batches(
    batches: Iterable[pa.RecordBatch], *, name: str, settings_json: str
) -> Iterator[pa.RecordBatch]:
    """Spark task: (trigger, target, trigger_text, target_text) -> (trigger, target, related).

    Raises:
        ConfigError: the judge answers with another number of verdicts.
    """
    import pyarrow as pa

    judge = open_judge(name, settings_json)
    for batch in batches:
        texts = [batch.column(k).to_pylist() for k in ("trigger_text", "target_text")]
        verdict = np.asarray(judge(*texts), dtype=bool) if batch.num_rows else np.zeros(0, bool)
        if verdict.shape != (batch.num_rows,):
            raise ConfigError(
                f"pairs.filters.judge {name!r} was given {batch.num_rows} pairs and answered with "
                f"an array of shape {verdict.shape}; one verdict a pair is expected"
            )
        yield pa.RecordBatch.from_arrays(
            [batch.column("trigger"), batch.column("target"), pa.array(verdict)],
            names=["trigger", "target", "related"],
        )
