"""What both training stages hand from their configuration to the launcher and to the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qarm.config import Config
    from qarm.pipeline.context import Context


def launch_settings(config: Config) -> dict[str, Any]:
    """Arguments of ``qarm.training.launch.launch``."""
    training = config.training
    return {
        "ranks": training.ranks,
        "backend": training.backend,
        "shards": config.loader.shards,
        "restarts": training.restarts,
        "stall_seconds": training.stall_seconds,
    }


def fit_settings(context: Context) -> dict[str, Any]:
    """Arguments of ``qarm.training.loop.fit``, all of them JSON.

    The manifest of checkpoints names the run, whose other checkpoints are refused, and the versions
    of the tables that it reads.
    """
    training = context.config.training
    tables = {**context.inputs, **context.outputs}
    return {
        "checkpoint_steps": training.checkpoint_steps,
        "keep": training.keep_checkpoints,
        "mixed_precision": training.mixed_precision,
        "manifest": {
            "config_hash": context.run_id,
            "tables": {name: ref.as_dict() for name, ref in sorted(tables.items())},
        },
    }
