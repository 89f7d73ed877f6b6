"""The training loop of both trainers: epochs, evaluation, checkpoints, resuming, the best weights.

The loss function returns the weighted *sum* of losses over its rows and the sum of the weights
(``__weight__`` times other weights of the rows), and the loop divides by the weight of all ranks
together. Padding therefore has no effect, rows count alike on every rank, and one rank with a batch
of 2B takes the same step as two ranks with B each. Losses that use other ranks' rows gather them
with ``collectives.gather_with_grad``.

A stopped run resumes at the step after its latest checkpoint, which holds the reader's position and
the running sums of the epoch. Randomness in a step depends on (seed, epoch, step, rank) alone, so
the final weights equal those of a run that was never stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from qarm.errors import ConfigError, TrainingError
from qarm.lake import files
from qarm.training import checkpoint, collectives, gradients
from qarm.training.records import FitResult, RunningEpoch
from qarm.training.settings import FitConfig
from qarm.training.state import copy_to_memory
from qarm.training.step import autocast, clip_gradients, learning_rate_factor, seed_step
from qarm.training.trackers import Trackers

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

Batch = dict[str, "Tensor"]
LossFunction = Callable[["nn.Module", Batch], "tuple[Tensor, Tensor]"]
"""(model, batch) -> (sum of weight x loss, sum of weights), both scalars."""


class EpochSource(Protocol):
    """The part of a loader that the loop uses."""

    rows_read: int
    wait_seconds: float

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch, equal on all ranks."""

    @property
    def plan(self) -> Any:
        """``qarm.training.shards.ShardPlan``: its number of shards and steps decide which rows a
        step has.
        """

    def epoch(self, epoch_no: int, start_step: int = 0) -> Iterator[Batch]:
        """Batches of one epoch, from ``start_step`` on."""


def fit(
    model: nn.Module,
    loss_fn: LossFunction,
    loader: EpochSource,
    optimizer: torch.optim.Optimizer,
    config: FitConfig,
    evaluate: Callable[[], Mapping[str, float]] | None = None,
) -> FitResult:
    """Train ``model`` and leave it with its best weights, equal on all ranks.

    Args:
        model: on the device to train on; all ranks start with rank 0's weights.
        loss_fn: see ``LossFunction``.
        loader: this rank's batches.
        optimizer: the learning rates of its groups are the schedule's peaks.
        config: epochs, schedule, checkpoints.
        evaluate: metrics after an epoch, averaged over ranks (a metric computed from all ranks'
            rows on every rank keeps its value).

    Raises:
        TrainingError: the loss is not finite, or the checkpoint is of another configuration, or
            of the middle of an epoch whose steps had other rows.
        ConfigError: ``evaluate`` does not report ``config.monitor``.
    """
    run = _Run(model, loss_fn, loader, optimizer, config)
    run.start()
    run.track()
    finished = False
    try:
        while run.result.epochs_done < config.epochs:
            if config.patience is not None and run.stale_epochs >= max(1, config.patience):
                break
            run.epoch(evaluate)
        finished = True
    finally:
        run.trackers.close(finished)
    run.restore_best()
    return run.result


@dataclass
class _Run:
    """State of one training."""

    model: nn.Module
    loss_fn: LossFunction
    loader: EpochSource
    optimizer: torch.optim.Optimizer
    config: FitConfig
    step: int = 0
    wait_seconds: float = 0.0
    result: FitResult = field(default_factory=FitResult)
    best_weights: dict[str, Tensor] | None = None
    running: RunningEpoch = field(default_factory=RunningEpoch)
    trackers: Trackers = field(default_factory=lambda: Trackers(None))

    @property
    def folder(self) -> str | None:
        """Folder of the checkpoints."""
        return self.config.checkpoint_folder

    @property
    def stale_epochs(self) -> int:
        """Epochs since the best one."""
        return self.result.epochs_done - 1 - self.result.best_epoch

    def start(self) -> None:
        """Copy rank 0's weights to all ranks: those of the latest checkpoint, if there is one."""
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        state = None
        if self.folder is not None and collectives.rank() == 0:
            found = checkpoint.latest(self.folder)
            if found is not None:
                self._refuse_other_config(found)
                self._refuse_other_order(found)
                checkpoint.load(found, self.model, self.optimizer)
                state = {"step": found.step, **found.manifest}
        state = collectives.broadcast_object(state)
        collectives.broadcast_model(self.model)
        collectives.broadcast_optimizer(self.optimizer)
        if state is not None:
            self._resume(state)

    def _resume(self, state: Mapping[str, Any]) -> None:
        """Continue where the checkpoint's run was."""
        self.step, self.wait_seconds = state["step"], state["wait_seconds"]
        self.result = FitResult(**state["result"])
        self.result.resumed_from, self.result.resumed_step = self.result.epochs_done, self.step
        self.running = RunningEpoch(**state["running"])
        rows, rank = state["reader"]["rows"], collectives.rank()
        # With another number of ranks only the sum is known.
        same = len(rows) == collectives.size()
        self.running.rows = rows[rank] if same else sum(rows) * (rank == 0)
        self.trackers.state = dict(state["tracking"])
        if rank == 0:
            where = f"epoch {self.result.epochs_done + 1}, step {self.running.step}"
            logger.info("resumed at %s (%d steps done in all)", where, self.step)

    def track(self) -> None:
        """Open the trackers, on rank 0."""
        folder = self.config.events_folder
        if folder is None and self.folder is not None:
            folder = files.join(self.folder, "events")
        self.trackers = Trackers(
            folder if collectives.rank() == 0 else None,
            step=self.step,
            state=self.trackers.state,
            parameters=self.config.manifest,
        )

    def _refuse_other_config(self, found: checkpoint.Checkpoint) -> None:
        expected, seen = self.config.config_hash, found.manifest["config_hash"]
        if expected != seen:
            raise TrainingError(
                f"the checkpoint {found.folder} was made with the configuration {seen}, this run "
                f"has {expected}. Remove {self.folder} to train anew, or restore the configuration"
            )

    def _order(self) -> dict[str, int]:
        """If these are equal, a step has the same rows at any number of ranks."""
        return {
            "steps_per_epoch": self.loader.steps_per_epoch,
            "shards": self.loader.plan.shards,
        }

    def _refuse_other_order(self, found: checkpoint.Checkpoint) -> None:
        reader, own = found.manifest["reader"], self._order()
        seen = {name: reader[name] for name in own}
        if reader["step"] and seen != own:
            raise TrainingError(
                f"the checkpoint {found.folder} is of step {reader['step']} of an epoch with "
                f"{seen}, this run has {own}: its steps have other rows. Restore loader.shards, "
                f"run with ranks that divide it, or remove {self.folder} to train anew"
            )

    def epoch(self, evaluate: Callable[[], Mapping[str, float]] | None) -> None:
        """Train one epoch, or the rest of it; evaluate, report, save."""
        import torch

        number, running = self.result.epochs_done, self.running
        self.model.train()
        started = time.perf_counter()
        for batch in self.loader.epoch(number, running.step):
            seed_step(self.config.seed, number, running.step, collectives.rank())
            loss, weight = self._train_step(batch)
            running.loss_sum += loss * weight
            running.weight_sum += weight
            running.step += 1
            now = time.perf_counter()
            running.seconds, started = running.seconds + now - started, now
            self._save_if_due()
        running.seconds += time.perf_counter() - started
        metrics: dict[str, float] = {}
        if evaluate is not None:
            self.model.eval()
            with torch.no_grad():
                metrics = collectives.reduce_metrics(evaluate())
        record = self._record(number, metrics)
        # Before the checkpoint: if killed in between, the epoch is reported twice, not omitted.
        self.trackers.write(record, self.step)
        is_best = self.result.best_epoch == number
        if self.folder is not None:
            self._save([], record, is_best)
        elif is_best:
            self.best_weights = copy_to_memory(self.model)

    def _save_if_due(self) -> None:
        """Save a checkpoint within an epoch; the end of the epoch has its own."""
        running = self.running
        every = self.config.checkpoint_steps
        if not self.folder or not every or self.step % every:
            return
        if running.step == self.loader.steps_per_epoch:
            return
        rows = collectives.gather_objects(running.rows + self.loader.rows_read)
        metrics = {"train_loss": running.loss_sum / max(running.weight_sum, 1e-300)}
        self._save(rows, metrics, is_best=False)

    def _train_step(self, batch: Batch) -> tuple[float, float]:
        import torch

        config = self.config
        steps = config.epochs * self.loader.steps_per_epoch
        factor = learning_rate_factor(self.step, config.warmup_steps, steps, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        device = next(self.model.parameters()).device
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.model, config.mixed_precision):
            loss_sum, weight_sum = self.loss_fn(self.model, batch)
        loss_sum.backward()
        weight_sum = torch.as_tensor(weight_sum)
        loss, weight = gradients.reduce_gradients(self.model, loss_sum, weight_sum)
        if not math.isfinite(loss) or not math.isfinite(weight):
            self._raise_not_finite(loss_sum, weight_sum)
        if config.gradient_clip > 0:
            clip_gradients(self.model, config.gradient_clip)
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
            "gradient_clip, or check the inputs for NaN; the latest checkpoint is kept"
        )

    def _record(self, number: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Add the epoch to the result, and mark it if it is the best so far."""
        result, running = self.result, self.running
        monitor = self.config.monitor
        if monitor is not None and monitor not in metrics:
            raise ConfigError(
                f"the best epoch is chosen by {monitor!r}, evaluation reports {sorted(metrics)}"
            )
        loss = running.loss_sum / max(running.weight_sum, 1e-300)
        waited = running.wait_seconds + self.loader.wait_seconds
        result.rows_per_rank = collectives.gather_objects(running.rows + self.loader.rows_read)
        result.seconds += running.seconds
        self.wait_seconds += waited
        result.input_wait_share = self.wait_seconds / max(result.seconds, 1e-9)
        rows = float(sum(result.rows_per_rank))
        record = {
            "epoch": float(number),
            "train_loss": loss,
            "rows": rows,
            "rows_per_second": rows / max(running.seconds, 1e-9),
            "input_wait_share": waited / max(running.seconds, 1e-9),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **metrics,
        }
        if self._is_better(metrics):
            result.best_epoch, result.best_metrics = number, dict(metrics)
        result.history.append(record)
        result.epochs_done = number + 1
        self.running = RunningEpoch()
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
        monitor = self.config.monitor
        if monitor is None or self.result.best_epoch < 0:
            return True
        best = self.result.best_metrics[monitor]
        return metrics[monitor] > best or math.isnan(best)

    def _save(self, rows: list[int], metrics: Mapping[str, float], is_best: bool) -> None:
        """Write a checkpoint on rank 0; ``rows``: read by each rank so far in the epoch."""
        if self.folder is None or collectives.rank() > 0:
            return
        running = asdict(self.running)
        if rows:  # a resumed loader counts from 0
            running["wait_seconds"] += self.loader.wait_seconds
        done = self.result.epochs_done
        reader = {"epoch": done, "step": running["step"], "rows": rows, **self._order()}
        content = {
            **self.config.manifest,
            "epoch": done,
            "reader": reader,
            "running": running,
            "metrics": dict(metrics),
            "is_best": is_best,
            "result": asdict(self.result),
            "wait_seconds": self.wait_seconds,
            "tracking": self.trackers.state,
        }
        checkpoint.save(
            self.folder, self.step, self.model, self.optimizer, content, self.config.keep
        )

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
