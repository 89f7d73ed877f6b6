"""Collective operations between ranks; the only module that knows Horovod.

A process that no launcher started is a world of one: every function here works there without
Horovod installed, and returns what its single rank put in. Another backend would replace this
module and nothing else. All functions are called by all ranks, in the same order.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qarm.errors import TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from qarm.training.shared_memory import SharedSum

_NOT_BUILT = (
    "more than one rank needs Horovod, and it cannot be imported here ({error}); build it with "
    "`make setup`, or set training.ranks = 1"
)
# What horovodrun prints of the process that ended first.
_ENDED = re.compile(r"Process name: (\d+)\s+Exit code: (\d+)")
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 2e-5, 1e-3
_horovod: Any = None
_started = False
_entered: tuple[str, float] | None = None
_shared: SharedSum | None = None
_tried_shared = False

SHARED_MEMORY = "QARM_SHARED_MEMORY"
"""Environment variable: 0 lets Horovod sum gradients also where ranks share one machine."""


class RankLostError(TrainingError):
    """A collective failed, for another rank stopped or stalled; its error is the cause."""


def init(cycle_ms: int | None = None) -> None:
    """Join the world that the launcher made; without a launcher, a world of one.

    Called on the first use of any function here; calling it again does nothing.

    Args:
        cycle_ms: how often ranks without a GPU ask each other for work, where HOROVOD_CYCLE_TIME
            does not say. Horovod's 1 ms takes a tenth of the cores on which a model is computed;
            where a step is long and has one collective, rarer is better.

    Raises:
        TrainingError: several ranks were launched and Horovod is not installed.
    """
    global _horovod, _started
    if _started:
        return
    if "HOROVOD_RANK" in os.environ:
        try:
            import horovod.torch as horovod
        except ImportError as error:
            raise TrainingError(_NOT_BUILT.format(error=error)) from error
        if cycle_ms is not None and not _has_gpu():
            os.environ.setdefault("HOROVOD_CYCLE_TIME", str(cycle_ms))
        horovod.init()
        _horovod = horovod
    _started = True


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def shutdown() -> None:
    """Leave the world; a later call of any function joins anew."""
    global _horovod, _started, _shared, _tried_shared
    if _shared is not None:
        _shared.close()
    if _horovod is not None:
        _horovod.shutdown()
    _horovod, _started, _shared, _tried_shared = None, False, None, False


def rank() -> int:
    """This process's number, 0 <= rank < size."""
    init()
    return int(_horovod.rank()) if _horovod else 0


def size() -> int:
    """Number of ranks."""
    init()
    return int(_horovod.size()) if _horovod else 1


def local_rank() -> int:
    """This process's number among those on the same machine: the accelerator it takes."""
    init()
    return int(_horovod.local_rank()) if _horovod else 0


@contextmanager
def _collective(what: str) -> Iterator[None]:
    """Turn errors of Horovod, and of shared memory, into ours, with the operation and the rank."""
    global _entered
    _entered = (what, time.monotonic())
    try:
        yield
    except Exception as error:
        of_horovod = type(error).__name__ == "HorovodInternalError"
        if not of_horovod and not isinstance(error, ConnectionError):
            raise
        raise RankLostError(
            f"rank {os.environ.get('HOROVOD_RANK')}: {what} failed, for another rank stopped or "
            f"stalled; its own error, or the log, tells why ({str(error).strip()})"
        ) from error
    finally:
        _entered = None


def waiting() -> tuple[str, float] | None:
    """The operation that this process is in, and for how many seconds; for another thread.

    Horovod's own stall check stays silent with gloo ranks, so the worker looks here.
    """
    entered = _entered
    return None if entered is None else (entered[0], time.monotonic() - entered[1])


def _on_wire(tensor: Tensor) -> Tensor:
    """``tensor``, contiguous, of a type and where this Horovod build can read it."""
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.cpu() if tensor.is_cuda and not _horovod.nccl_built() else tensor


def _finish(handle: Any) -> Any:
    """Result of an operation that was started.

    Horovod's own wait spins. Where ranks have one core each, it takes that core from the thread
    that does the work; asleep, it leaves it.
    """
    pause = _FIRST_PAUSE_SECONDS
    while not _horovod.poll(handle):
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
    return _horovod.synchronize(handle)


def allreduce_sum(tensor: Tensor, name: str | None = None) -> Tensor:
    """Sum over ranks of tensors of one shape; a new tensor on the same device, no gradient."""
    if size() == 1:
        return tensor.detach().clone()
    with _collective(name or "allreduce"):
        handle = _horovod.allreduce_async(_on_wire(tensor), op=_horovod.Sum, name=name)
        total = _finish(handle)
    return total.to(tensor)


def allreduce_mean(tensor: Tensor, name: str | None = None) -> Tensor:
    """Mean over ranks of floating tensors of one shape; no gradient."""
    return allreduce_sum(tensor, name) / size()


def gather(tensor: Tensor, name: str | None = None) -> Tensor:
    """Tensors of all ranks concatenated along dimension 0 in rank order; no gradient.

    First dimensions may differ between ranks, also be 0.
    """
    if size() == 1:
        return tensor.detach().clone()
    with _collective(name or "gather"):
        return _finish(_horovod.allgather_async(_on_wire(tensor), name=name)).to(tensor)


def gather_with_grad(tensor: Tensor) -> Tensor:
    """``gather`` with true gradients: those of the sum of all ranks' losses.

    ``hvd.allgather`` averages in its backward pass, which makes the gathered side's gradient
    1/world too small. Here the backward pass sums the gradients of all ranks and takes this
    rank's rows, so that one rank with a batch of 2B equals two ranks with B each.

    Args:
        tensor: (rows, ...), the same number of rows on every rank.

    Raises:
        TrainingError: the ranks' first dimensions differ.
    """
    return tensor if size() == 1 else _gather_function().apply(tensor)


def _gather_function() -> Any:
    import torch

    class GatherWithGrad(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, tensor: Tensor) -> Tensor:
            context.rows = tensor.shape[0]
            gathered = gather(tensor)
            if gathered.shape[0] != context.rows * size():
                raise TrainingError(
                    f"gather_with_grad needs the same rows on all {size()} ranks; rank {rank()} "
                    f"has {context.rows}, all together {gathered.shape[0]}"
                )
            return gathered

        @staticmethod
        def backward(context: Any, *gradients: Tensor) -> Tensor:
            total = allreduce_sum(gradients[0])
            return total[rank() * context.rows : (rank() + 1) * context.rows]

    return GatherWithGrad


def gather_objects(value: Any) -> list[Any]:
    """``value`` of every rank, in rank order, on every rank. For small things: it is pickled."""
    if size() == 1:
        return [value]
    with _collective("gather_objects"):
        return list(_horovod.allgather_object(value, name="qarm.objects"))


def broadcast_object(value: Any) -> Any:
    """Rank 0's ``value`` on every rank. For small things: it is pickled."""
    if size() == 1:
        return value
    with _collective("broadcast_object"):
        return _horovod.broadcast_object(value, root_rank=0, name="qarm.object")


def _broadcast_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Overwrite each tensor with rank 0's; names, shapes and types are equal on all ranks."""
    import torch

    with _collective("broadcast"), torch.no_grad():
        sent = []
        for name, tensor in tensors.items():
            if not tensor.numel():
                continue
            wire = _on_wire(tensor)
            sent.append((tensor, _horovod.broadcast_async(wire, root_rank=0, name=f"qarm.{name}")))
        for tensor, handle in sent:
            tensor.copy_(_finish(handle))


def broadcast_model(model: nn.Module) -> None:
    """Give every rank rank 0's parameters and buffers."""
    if size() > 1:
        _broadcast_tensors({f"model.{k}": v for k, v in model.state_dict().items()})


def broadcast_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Give every rank rank 0's optimiser state and hyper-parameters.

    Unlike ``hvd.broadcast_optimizer_state`` it takes no step to create missing state, and so
    moves no weight.
    """
    if size() == 1:
        return
    import torch

    from qarm.training.state import flatten, unflatten

    tensors, scalars = flatten(optimizer.state_dict())
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    shapes, scalars = broadcast_object((shapes, scalars))
    if rank() > 0:
        tensors = {name: torch.empty(s, dtype=dtype) for name, (s, dtype) in shapes.items()}
    _broadcast_tensors({f"optimizer.{name}": tensor for name, tensor in tensors.items()})
    if rank() > 0:
        optimizer.load_state_dict(unflatten(tensors, scalars))


def reduce_gradients(model: nn.Module, loss: Tensor, weight: Tensor) -> tuple[float, float]:
    """Sum the gradients, losses and weights of all ranks, and divide by the total weight.

    After ``loss.backward()`` on the weighted *sum* of losses of this rank's rows, each
    parameter's ``grad`` is that of the weighted mean over the rows of all ranks, whatever their
    number. Every trainable parameter takes part in every step, one without a gradient with
    zeros, so that ranks never disagree on what is reduced (nor on what the optimiser updates).
    Dense gradients are one tensor a type, which ranks of one machine sum in shared memory; those of
    ``sparse=True`` embeddings travel as coalesced rows.

    Args:
        loss: scalar, sum of weight x loss over this rank's rows.
        weight: scalar, sum of their weights.

    Returns:
        Mean loss and total weight over all ranks. With a total weight of 0 gradients stay 0.
    """
    import torch

    totals = torch.stack([loss.detach().double().cpu(), weight.detach().double().cpu()])
    dense, sparse = _split_gradients(model)
    alone: list[nn.Parameter] = []
    if size() == 1:  # nothing travels, so nothing is copied together
        alone, dense = [parameter for group in dense for parameter in group], []
    gradients = [[_gradient(p) for p in group] for group in dense]
    rows = [_touched_rows(parameter) for parameter in sparse]
    buffers: list[Tensor] = []
    if size() > 1:
        shared = _shared_sum(gradients)
        # All are on their way before one is waited for: a round of the ranks' talk is milliseconds.
        with _collective("gradient reduction"):
            gathers = [
                _horovod.allgather_async(_on_wire(part), name=f"qarm.rows.{i}.{k}")
                for i, pair in enumerate(rows)
                for k, part in enumerate(pair)
            ]
            if shared is None:
                buffers, totals = _sums_by_horovod(gradients, totals)
            else:
                buffers, sums = shared.sum(gradients, (float(totals[0]), float(totals[1])))
                totals = torch.tensor(sums, dtype=torch.float64)
            gathered = [_finish(handle) for handle in gathers]
        rows = list(zip(gathered[::2], gathered[1::2], strict=True))
    total_loss, total_weight = totals.tolist()
    scale = 1.0 / total_weight if total_weight else 0.0
    for group, buffer in zip(dense, buffers, strict=True):
        buffer.mul_(scale)
        pieces = buffer.split([p.numel() for p in group])
        for parameter, piece in zip(group, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
    for parameter in alone:
        parameter.grad = _gradient(parameter).mul_(scale)
    for parameter, (numbers, values) in zip(sparse, rows, strict=True):
        parameter.grad = _sum_rows(parameter, numbers, values.mul_(scale))
    return total_loss * scale, total_weight


def _sums_by_horovod(groups: list[list[Tensor]], totals: Tensor) -> tuple[list[Tensor], Tensor]:
    """Sums over ranks, those of each group flat, as one tensor."""
    import torch

    flat = [torch.cat([tensor.reshape(-1) for tensor in group]) for group in groups]
    handles = [
        _horovod.allreduce_async_(wire, op=_horovod.Sum, name=f"qarm.gradients.{i}")
        for i, wire in enumerate([totals, *(_on_wire(tensor) for tensor in flat)])
    ]
    totals, *sums = (_finish(handle) for handle in handles)
    return [s.to(tensor.device) for s, tensor in zip(sums, flat, strict=True)], totals


def _shared_sum(groups: list[list[Tensor]]) -> SharedSum | None:
    """How gradients are summed where all ranks are on one machine and compute on its CPU."""
    global _shared, _tried_shared
    if not _tried_shared:
        from qarm.training.shared_memory import SharedSum

        _tried_shared = True
        if os.environ.get(SHARED_MEMORY, "1") != "0" and _horovod.local_size() == size():
            _shared = SharedSum.connect(rank(), size(), gather_objects)
    on_cpu = all(group[0].device.type == "cpu" for group in groups)
    return _shared if on_cpu else None


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over ranks (see ``reduce_gradients``)."""
    import torch

    reduce_gradients(model, torch.zeros(()), torch.ones(()))


def _split_gradients(model: nn.Module) -> tuple[list[list[nn.Parameter]], list[nn.Parameter]]:
    """Trainable parameters: dense ones grouped by type and device, and those declared sparse."""
    declared = {id(m.weight) for m in model.modules() if getattr(m, "sparse", False) is True}
    groups: dict[Any, list[nn.Parameter]] = {}
    sparse = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in declared:
            sparse.append(parameter)
        else:
            groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return list(groups.values()), sparse


def _gradient(parameter: nn.Parameter) -> Tensor:
    """The gradient, dense; zeros where there is none."""
    import torch

    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad


def _touched_rows(parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Rows of this rank's gradient that are not zero, each once: their numbers, and the rows."""
    import torch

    gradient = parameter.grad
    if gradient is None:
        rows = torch.zeros(0, dtype=torch.int64, device=parameter.device)
        return rows, parameter.new_zeros((0, *parameter.shape[1:]))
    gradient = (gradient if gradient.is_sparse else gradient.to_sparse(1)).coalesce()
    return gradient.indices()[0], gradient.values()


def _sum_rows(parameter: nn.Parameter, rows: Tensor, values: Tensor) -> Tensor:
    """Gradient whose rows are the sums of the values of equal number: a coalesced sparse tensor."""
    import torch

    return torch.sparse_coo_tensor(
        rows.to(parameter.device)[None],
        values.to(parameter),
        parameter.shape,
        check_invariants=False,
        is_coalesced=size() == 1,
    ).coalesce()


def barrier() -> None:
    """Wait until every rank is here."""
    if size() > 1:
        with _collective("barrier"):
            _horovod.barrier()


def reduce_metrics(metrics: Mapping[str, float], weight: float = 1.0) -> dict[str, float]:
    """Mean of each metric over ranks, weighted by ``weight``; NaN where no rank has weight.

    Raises:
        TrainingError: the ranks report different metrics.
    """
    reported = gather_objects((dict(metrics), float(weight)))
    names = [set(values) for values, _ in reported]
    for other, found in enumerate(names):
        if found != names[0]:
            raise TrainingError(
                f"rank 0 reports the metrics {sorted(names[0])}, rank {other} {sorted(found)}"
            )
    total = sum(w for _, w in reported)
    return {
        name: sum(values[name] * w for values, w in reported if w) / total
        if total
        else float("nan")
        for name in metrics
    }


def launch_environment(stall_seconds: int) -> dict[str, str]:
    """Environment of ranks: Horovod too should give up after ``stall_seconds``."""
    return {
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, min(60, stall_seconds // 2))),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(stall_seconds),
    }


def first_ended(log: str) -> tuple[int, int] | None:
    """Rank and exit code of the process that ended first, by what horovodrun printed."""
    found = _ENDED.search(log)
    return (int(found[1]), int(found[2])) if found else None


def horovodrun_command(ranks: int) -> list[str]:
    """Command prefix that starts ``ranks`` processes on this machine, with gloo.

    Raises:
        TrainingError: Horovod is not installed.
    """
    try:
        import horovod  # noqa: F401
    except ImportError as error:
        raise TrainingError(_NOT_BUILT.format(error=error)) from error
    script = shutil.which("horovodrun", path=os.path.dirname(sys.executable))
    start = [sys.executable, script] if script else [sys.executable, "-m", "horovod.runner.launch"]
    return [*start, "--gloo", "-np", str(ranks), "-H", f"localhost:{ranks}"]


def run_in_spark(
    function: Callable[[], Any], ranks: int, start_timeout: int, log: Any
) -> list[Any]:
    """Run ``function`` on ``ranks`` Spark executors; its results in rank order.

    Args:
        function: pickled by value, so define it locally.
        start_timeout: seconds to wait for as many free task slots as ranks.
        log: text stream that gets the ranks' output.
    """
    try:
        from horovod import spark
    except ImportError as error:
        raise TrainingError(_NOT_BUILT.format(error=error)) from error
    # Horovod replaces these and never puts them back.
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        return list(
            spark.run(
                function,
                num_proc=ranks,
                start_timeout=start_timeout,
                use_gloo=True,
                stdout=log,
                stderr=log,
                verbose=0,
            )
        )
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
