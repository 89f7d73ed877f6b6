"""Records of a training; checkpoints hold both as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FitResult:
    """The outcome of a training.

    Attributes:
        history: one record per epoch: epoch, train_loss, rows, rows_per_second,
            input_wait_share, learning_rate, and the metrics of ``evaluate``.
        best_epoch: the epoch whose weights the model has now; -1 if there was none.
        best_metrics: its metrics.
        rows_per_rank: rows that each rank read in the latest epoch.
        seconds: time spent in training epochs, including runs that were resumed.
        input_wait_share: share of that time in which rank 0 waited for batches.
        epochs_done: epochs trained, including runs that were resumed.
        resumed_from: epochs that were already done when this run began.
        resumed_step: steps that were already done, over all epochs.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)
    rows_per_rank: list[int] = field(default_factory=list)
    seconds: float = 0.0
    input_wait_share: float = 0.0
    epochs_done: int = 0
    resumed_from: int = 0
    resumed_step: int = 0


@dataclass
class RunningEpoch:
    """The current epoch; loss and weight are sums over all ranks, the rest is of this rank."""

    step: int = 0
    """Steps done in the epoch: the reader's position."""
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    """Waiting for input before this run resumed."""
    rows: int = 0
    """Rows read before this run resumed."""
