"""The training loop of both trainers: epochs, evaluation, checkpoints, resuming, the best weights.

The loss function returns the weighted *sum* of losses over its rows and the sum of the weights
(``__weight__`` times whatever weights the rows bring), and the loop divides by the weight of all
ranks together. So padding counts for nothing, rows count alike on every rank, and one rank with
a batch of 2B takes the same step as two ranks with B each. Losses that look at other ranks' rows
do so by ``collectives.gather_with_grad``.

A run that was stopped continues at the epoch after its latest checkpoint. What is random in an
epoch depends on (seed, epoch, rank) alone, so it ends with the weights of a run never stopped.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from qarm.errors import ConfigError, TrainingError
from qarm.training import checkpoint, collectives
from qarm.training.state import copy_to_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

Batch = dict[str, "Tensor"]
LossFunction = Callable[["nn.Module", Batch], "tuple[Tensor, Tensor]"]
"""(model, batch) -> (sum of weight x loss, sum of weights), both scalars."""


class EpochSource(Protocol):
    """What the loop needs of a loader."""

    rows_read: int
    wait_seconds: float

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, equal on all ranks."""

    def epoch(self, epoch_no: int) -> Iterator[Batch]:
        """Batches of one epoch."""


@dataclass
class FitResult:
    """What a training did.

    Attributes:
        history: one entry an epoch: epoch, train_loss, rows, rows_per_second,
            input_wait_share, learning_rate, and the metrics of ``evaluate``.
        best_epoch: the epoch whose weights the model has now; -1 if there was none.
        best_metrics: its metrics.
        rows_per_rank: rows that each rank read in the latest epoch.
        seconds: time spent in training epochs, over all runs that were resumed.
        input_wait_share: share of it that rank 0 waited for batches.
        epochs_done: epochs trained, over all runs that were resumed.
        resumed_from: epochs that were already done when this run began.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    best_metrics: dict[str, float] = field(default_factory=dict)
    rows_per_rank: list[int] = field(default_factory=list)
    seconds: float = 0.0
    input_wait_share: float = 0.0
    epochs_done: int = 0
    resumed_from: int = 0


def fit(
    model: nn.Module,
    loss_fn: LossFunction,
    train_loader: EpochSource,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    warmup_steps: int = 0,
    schedule: Literal["constant", "cosine"] = "constant",
    evaluate: Callable[[], Mapping[str, float]] | None = None,
    monitor: str | None = None,
    mode: Literal["max", "min"] = "max",
    patience: int | None = None,
    checkpoint_folder: str | None = None,
    keep: int = 2,
    resume: bool = True,
    gradient_clip: float = 0.0,
    seed: int = 0,
    progress: bool | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train ``model`` and leave it with its best weights, equal on all ranks.

    Args:
        model: on the device to train on; rank 0's start weights are everyone's.
        loss_fn: see ``LossFunction``.
        train_loader: this rank's batches.
        epochs: most epochs.
        optimizer: its groups' learning rates are the schedule's peaks.
        warmup_steps: steps of linear warm-up.
        schedule: after the warm-up: constant, or cosine down to 0 at the last step.
        evaluate: metrics after an epoch, averaged over ranks (a metric computed from all ranks'
            rows on every rank stays what it is).
        monitor: metric that chooses the best epoch; None: the last epoch is the best.
        mode: whether ``monitor`` should be large or small.
        patience: epochs without improvement before stopping; None: never.
        checkpoint_folder: URI; None: nothing is saved, and nothing resumed.
        keep: latest checkpoints kept beside the best.
        resume: continue from the latest checkpoint in the folder.
        gradient_clip: largest norm of all gradients together; 0: no limit.
        seed: seed of dropout and the like.
        progress: whether rank 0 shows a bar; None: if stderr is a terminal.
        manifest: facts for the checkpoints. Where ``config_hash`` is among them, a checkpoint
            of another one is refused.

    Raises:
        TrainingError: the loss is not finite, or the checkpoint is of another configuration.
        ConfigError: ``evaluate`` does not report ``monitor``.
    """
    run = _Run(
        model=model,
        loss_fn=loss_fn,
        loader=train_loader,
        optimizer=optimizer,
        rate=lambda step: learning_rate_factor(
            step, warmup_steps, epochs * train_loader.steps_per_epoch, schedule
        ),
        gradient_clip=gradient_clip,
        seed=seed,
        progress=sys.stderr.isatty() if progress is None else progress,
        folder=checkpoint_folder,
        keep=keep,
        manifest=dict(manifest or {}),
        monitor=monitor,
        sign=1.0 if mode == "max" else -1.0,
    )
    run.start(resume)
    with _EventFile(checkpoint_folder) as events:
        while run.result.epochs_done < epochs:
            if patience is not None and run.stale_epochs >= max(1, patience):
                break
            events.write(run.epoch(evaluate), run.step)
    run.restore_best()
    return run.result


def learning_rate_factor(
    step: int, warmup_steps: int, total_steps: int, schedule: Literal["constant", "cosine"]
) -> float:
    """Share of the peak learning rate at ``step`` (from 0)."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


@dataclass
class _Run:
    """State of one training."""

    model: nn.Module
    loss_fn: LossFunction
    loader: EpochSource
    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    gradient_clip: float
    seed: int
    progress: bool
    folder: str | None
    keep: int
    manifest: dict[str, Any]
    monitor: str | None
    sign: float
    step: int = 0
    wait_seconds: float = 0.0
    result: FitResult = field(default_factory=FitResult)
    best_weights: dict[str, Tensor] | None = None

    @property
    def stale_epochs(self) -> int:
        """Epochs since the best one."""
        return self.result.epochs_done - 1 - self.result.best_epoch

    def start(self, resume: bool) -> None:
        """Give all ranks rank 0's weights: those of the latest checkpoint, if there is one."""
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        state = None
        if resume and self.folder is not None and collectives.rank() == 0:
            found = checkpoint.latest(self.folder)
            if found is not None:
                self._refuse_other_config(found)
                checkpoint.load(found, self.model, self.optimizer)
                state = (found.step, found.manifest["result"], found.manifest["wait_seconds"])
        state = collectives.broadcast_object(state)
        collectives.broadcast_model(self.model)
        collectives.broadcast_optimizer(self.optimizer)
        if state is not None:
            self.step, result, self.wait_seconds = state
            self.result = FitResult(**result)
            self.result.resumed_from = self.result.epochs_done
            logger.info("resumed after epoch %d, step %d", self.result.epochs_done, self.step)

    def _refuse_other_config(self, found: checkpoint.Checkpoint) -> None:
        expected, seen = self.manifest.get("config_hash"), found.manifest.get("config_hash")
        if expected != seen:
            raise TrainingError(
                f"the checkpoint {found.folder} was made with the configuration {seen}, this run "
                f"has {expected}. Remove {self.folder} to train anew, or set the configuration back"
            )

    def epoch(self, evaluate: Callable[[], Mapping[str, float]] | None) -> dict[str, float]:
        """Train one epoch, evaluate, save; the epoch's record."""
        import torch

        number = self.result.epochs_done
        torch.manual_seed(_mix(self.seed, number, collectives.rank()))
        self.model.train()
        started = time.perf_counter()
        loss_sum = weight_sum = 0.0
        for batch in self._shown(self.loader.epoch(number), number):
            loss, weight = self._train_step(batch)
            loss_sum, weight_sum = loss_sum + loss * weight, weight_sum + weight
        seconds = time.perf_counter() - started
        metrics: dict[str, float] = {}
        if evaluate is not None:
            self.model.eval()
            with torch.no_grad():
                metrics = collectives.reduce_metrics(evaluate())
        record = self._record(number, loss_sum / max(weight_sum, 1e-300), seconds, metrics)
        self._save(record)
        return record

    def _train_step(self, batch: Batch) -> tuple[float, float]:
        import torch

        factor = self.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        device = next(self.model.parameters()).device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, weight_sum = self.loss_fn(self.model, batch)
        loss_sum.backward()
        weight_sum = torch.as_tensor(weight_sum)
        loss, weight = collectives.reduce_gradients(self.model, loss_sum, weight_sum)
        if not math.isfinite(loss) or not math.isfinite(weight):
            self._raise_not_finite(loss_sum, weight_sum)
        if self.gradient_clip > 0:
            clip_gradients(self.model, self.gradient_clip)
        self.optimizer.step()
        self.step += 1
        return loss, weight

    def _raise_not_finite(self, loss_sum: Tensor, weight_sum: Tensor) -> None:
        own = (float(loss_sum.detach()), float(weight_sum))
        seen = collectives.gather_objects(own)
        bad = [f"rank {r}: loss sum {a}, weight sum {b}" for r, (a, b) in enumerate(seen)]
        rate = self.optimizer.param_groups[0]["lr"]
        raise TrainingError(
            f"the loss is not finite at epoch {self.result.epochs_done}, step {self.step}, "
            f"learning rate {rate:.3g} ({'; '.join(bad)}). Lower the learning rate, set "
            "gradient_clip, or look for NaN in the inputs; the latest checkpoint is kept"
        )

    def _record(
        self, number: int, loss: float, seconds: float, metrics: Mapping[str, float]
    ) -> dict[str, float]:
        """Add the epoch to the result; is it the best so far?"""
        result = self.result
        if self.monitor is not None and self.monitor not in metrics:
            raise ConfigError(
                f"training is judged by {self.monitor!r}, and evaluation reports {sorted(metrics)}"
            )
        result.rows_per_rank = collectives.gather_objects(self.loader.rows_read)
        result.seconds += seconds
        self.wait_seconds += self.loader.wait_seconds
        result.input_wait_share = self.wait_seconds / max(result.seconds, 1e-9)
        rows = float(sum(result.rows_per_rank))
        record = {
            "epoch": float(number),
            "train_loss": loss,
            "rows": rows,
            "rows_per_second": rows / max(seconds, 1e-9),
            "input_wait_share": self.loader.wait_seconds / max(seconds, 1e-9),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **metrics,
        }
        if self._is_better(metrics):
            result.best_epoch, result.best_metrics = number, dict(metrics)
        result.history.append(record)
        result.epochs_done = number + 1
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        if collectives.rank() == 0:
            logger.info(
                "epoch %d: loss %.4f, %s%.0f rows/s, %.0f %% waiting for input",
                number + 1,
                loss,
                f"{shown}, " if shown else "",
                record["rows_per_second"],
                100 * record["input_wait_share"],
            )
        return record

    def _is_better(self, metrics: Mapping[str, float]) -> bool:
        if self.monitor is None or self.result.best_epoch < 0:
            return True
        value, best = metrics[self.monitor], self.result.best_metrics[self.monitor]
        return self.sign * value > self.sign * best or math.isnan(best)

    def _save(self, record: Mapping[str, float]) -> None:
        is_best = self.result.best_epoch == int(record["epoch"])
        if self.folder is None:
            if is_best:
                self.best_weights = copy_to_memory(self.model)
            return
        if collectives.rank() == 0:
            content = {
                **self.manifest,
                "epoch": self.result.epochs_done,
                "metrics": dict(record),
                "is_best": is_best,
                "result": asdict(self.result),
                "wait_seconds": self.wait_seconds,
            }
            checkpoint.save(self.folder, self.step, self.model, self.optimizer, content, self.keep)

    def restore_best(self) -> None:
        """Load the best epoch's weights, on all ranks."""
        if self.result.best_epoch == self.result.epochs_done - 1:
            return
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        elif self.folder is not None:
            if collectives.rank() == 0:
                found = checkpoint.best(self.folder)
                epoch = None if found is None else found.manifest["epoch"] - 1
                if found is None or epoch != self.result.best_epoch:
                    raise TrainingError(
                        f"the checkpoint of the best epoch ({self.result.best_epoch}) is missing "
                        f"or damaged in {self.folder}; remove the folder to train anew"
                    )
                checkpoint.load(found, self.model)
            collectives.broadcast_model(self.model)

    def _shown(self, batches: Iterator[Batch], number: int) -> Iterator[Batch]:
        if not self.progress or collectives.rank() > 0:
            yield from batches
            return
        from tqdm import tqdm

        yield from tqdm(
            batches, total=self.loader.steps_per_epoch, desc=f"epoch {number + 1}", leave=False
        )


def clip_gradients(model: nn.Module, largest_norm: float) -> float:
    """Scale all gradients so that their common norm is at most ``largest_norm``; the norm before.

    Unlike torch's, it takes (coalesced) sparse gradients too.
    """
    import torch

    gradients = [
        p.grad.coalesce().values() if p.grad.is_sparse else p.grad
        for p in model.parameters()
        if p.grad is not None
    ]
    if not gradients:
        return 0.0
    norms = torch.stack([torch.linalg.vector_norm(g).double().cpu() for g in gradients])
    norm = float(torch.linalg.vector_norm(norms))
    if norm > largest_norm:
        for gradient in gradients:
            gradient.mul_(largest_norm / norm)
    return norm


class _EventFile:
    """TensorBoard events beside local checkpoints, on rank 0, where tensorboard is installed."""

    def __init__(self, folder: str | None) -> None:
        from qarm.lake import files

        self._writer: Any = None
        path = files.local_path(folder) if folder is not None else None
        if path is None or collectives.rank() > 0:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(files.join(path, "events"))

    def write(self, record: Mapping[str, float], step: int) -> None:
        """Add the epoch's numbers."""
        if self._writer is not None:
            for name, value in record.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def __enter__(self) -> _EventFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def _mix(*values: int) -> int:
    """One seed from several numbers."""
    import numpy as np

    state = np.random.SeedSequence([v & 0xFFFFFFFF for v in values]).generate_state(2)
    return int(state[0]) << 31 ^ int(state[1])
