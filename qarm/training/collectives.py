"""Collective operations between ranks; the only module that imports Horovod.

A process that no launcher started is a world of one: every function works there without Horovod
installed, and returns its own input. All ranks must call the functions in the same order.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qarm.errors import TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_NOT_BUILT = (
    "more than one rank needs Horovod, and it cannot be imported here ({error}); build it with "
    "`make setup`, or set training.ranks = 1"
)
_LOOPBACK = "127.0.0.1"
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 2e-5, 1e-3
_horovod: Any = None
_started = False
_entered: tuple[str, float] | None = None


class RankLostError(TrainingError):
    """A collective failed because another rank stopped or stalled; that rank has the cause."""


def init(cycle_ms: int | None = None) -> None:
    """Join the world that the launcher made; without a launcher, a world of one.

    Called on the first use of any function here; calling it again does nothing.

    Args:
        cycle_ms: milliseconds between Horovod's negotiation rounds on machines without a GPU,
            unless HOROVOD_CYCLE_TIME is set. Horovod's default of 1 ms takes a tenth of the cores
            that compute; a higher value is better if steps are long and have one collective.

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


def rank() -> int:
    """This process's number, 0 <= rank < size."""
    init()
    return int(_horovod.rank()) if _horovod else 0


def size() -> int:
    """Number of ranks."""
    init()
    return int(_horovod.size()) if _horovod else 1


def local_rank() -> int:
    """This process's number among those on the same machine; it chooses the accelerator."""
    init()
    return int(_horovod.local_rank()) if _horovod else 0


@contextmanager
def _collective(what: str) -> Iterator[None]:
    """Turn errors of Horovod into ours, with the operation and the rank."""
    global _entered
    _entered = (what, time.monotonic())
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "HorovodInternalError":
            raise
        raise RankLostError(
            f"rank {os.environ.get('HOROVOD_RANK')}: {what} failed because another rank stopped or "
            f"stalled; see that rank's error, or the log ({str(error).strip()})"
        ) from error
    finally:
        _entered = None


def waiting() -> tuple[str, float] | None:
    """The operation that this process waits in, and for how many seconds; for another thread.

    Horovod's own stall check does not report with gloo, so the worker uses this one.
    """
    entered = _entered
    return None if entered is None else (entered[0], time.monotonic() - entered[1])


def _on_wire(tensor: Tensor) -> Tensor:
    """``tensor``, contiguous, with a type and on a device that this Horovod build supports."""
    import torch

    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.cpu() if tensor.is_cuda and not _horovod.nccl_built() else tensor


def _finish(handle: Any) -> Any:
    """Result of an operation that was started.

    Horovod's own wait spins: where ranks have one core each, it takes that core from the thread
    that does the work.
    """
    pause = _FIRST_PAUSE_SECONDS
    while not _horovod.poll(handle):
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
    return _horovod.synchronize(handle)


def exchange(
    groups: Sequence[Sequence[Tensor]], rows: Sequence[Tensor], name: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Sum some tensors over ranks and concatenate others, in one negotiation round.

    Args:
        groups: each holds tensors of one type and device; shapes are equal on all ranks.
        rows: tensors to concatenate; first dimensions may differ between ranks and may be 0.
        name: identifies the operation; equal on all ranks.

    Returns:
        The sums, a flat tensor per group; and each tensor of ``rows`` concatenated in rank order.
    """
    import torch

    if size() == 1:
        own = [torch.cat([tensor.detach().reshape(-1) for tensor in group]) for group in groups]
        return own, [tensor.detach().clone() for tensor in rows]
    with _collective(name):
        # All are started before the first is waited for: a negotiation round takes milliseconds.
        sums = [
            _horovod.allreduce_async_(
                torch.cat([_on_wire(tensor).reshape(-1) for tensor in group]),
                op=_horovod.Sum,
                name=f"qarm.{name}.{i}",
            )
            for i, group in enumerate(groups)
        ]
        gathers = [
            _horovod.allgather_async(_on_wire(tensor), name=f"qarm.{name}.rows.{i}")
            for i, tensor in enumerate(rows)
        ]
        return (
            [_finish(sent).to(group[0]) for sent, group in zip(sums, groups, strict=True)],
            [_finish(sent).to(tensor) for sent, tensor in zip(gathers, rows, strict=True)],
        )


def allreduce_sum(tensor: Tensor, name: str = "sum") -> Tensor:
    """Sum over ranks of tensors of one shape; a new tensor on the same device, no gradient."""
    return exchange([[tensor]], [], name)[0][0].view_as(tensor)


def gather(tensor: Tensor, name: str = "gather") -> Tensor:
    """Tensors of all ranks concatenated along dimension 0 in rank order; no gradient.

    First dimensions may differ between ranks and may be 0.
    """
    return exchange([], [tensor], name)[1][0]


def gather_with_grad(tensor: Tensor) -> Tensor:
    """``gather`` with the gradients of the sum of all ranks' losses.

    ``hvd.allgather`` averages in its backward pass, so that gradients of the gathered tensor would
    be too small by a factor of the number of ranks. Here the backward pass sums the gradients of
    all ranks and returns this rank's rows: one rank with a batch of 2B equals two ranks with B
    each.

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
                    f"gather_with_grad needs equally many rows on all {size()} ranks; rank "
                    f"{rank()} has {context.rows}, all ranks together have {gathered.shape[0]}"
                )
            return gathered

        @staticmethod
        def backward(context: Any, *gradients: Tensor) -> Tensor:
            total = allreduce_sum(gradients[0])
            return total[rank() * context.rows : (rank() + 1) * context.rows]

    return GatherWithGrad


def gather_objects(value: Any) -> list[Any]:
    """``value`` of every rank, in rank order, on every rank.

    Values travel as JSON, so that nothing that a rank sends is executed: tuples arrive as lists,
    keys of dicts as strings. For small values.
    """
    text = json.dumps(value)
    if size() == 1:
        return [json.loads(text)]
    import torch

    content = torch.frombuffer(bytearray(f"{text}\n".encode()), dtype=torch.uint8)
    lines = gather(content, "objects").numpy().tobytes().splitlines()
    return [json.loads(line) for line in lines]


def broadcast_object(value: Any) -> Any:
    """Rank 0's ``value`` on every rank, as JSON; for small values."""
    return gather_objects(value if rank() == 0 else None)[0]


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
    """Copy rank 0's parameters and buffers to every rank."""
    if size() > 1:
        _broadcast_tensors({f"model.{k}": v for k, v in model.state_dict().items()})


def broadcast_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Copy rank 0's optimiser state and hyper-parameters to every rank.

    Unlike ``hvd.broadcast_optimizer_state`` it takes no step to create missing state, which would
    change the weights.
    """
    if size() == 1:
        return
    import torch

    from qarm.training.state import flatten, unflatten

    tensors, scalars = flatten(optimizer.state_dict())
    shapes = {n: (list(t.shape), str(t.dtype).removeprefix("torch.")) for n, t in tensors.items()}
    shapes, scalars = broadcast_object((shapes, scalars))
    if rank() > 0:
        tensors = {n: torch.empty(s, dtype=getattr(torch, kind)) for n, (s, kind) in shapes.items()}
    _broadcast_tensors({f"optimizer.{name}": tensor for name, tensor in tensors.items()})
    if rank() > 0:
        optimizer.load_state_dict(unflatten(tensors, scalars))


def barrier() -> None:
    """Wait until every rank has called this function."""
    if size() > 1:
        with _collective("barrier"):
            _horovod.barrier()


def reduce_metrics(metrics: Mapping[str, float], weight: float = 1.0) -> dict[str, float]:
    """Mean of each metric over ranks, weighted by ``weight``; NaN if the total weight is 0.

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
    """Horovod's settings for the ranks: time limits, and this process's HOROVOD_CYCLE_TIME."""
    cycle = os.environ.get("HOROVOD_CYCLE_TIME")
    return {
        **({"HOROVOD_CYCLE_TIME": cycle} if cycle else {}),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, min(60, stall_seconds // 2))),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(stall_seconds),
    }


@contextmanager
def rendezvous(ranks: int) -> Iterator[list[dict[str, str]]]:
    """Where ``ranks`` processes of this machine find each other, by gloo; variables for each.

    It answers on 127.0.0.1 only. ``horovodrun`` does the same on all addresses, and its launcher
    shows the variables that it hands on in command lines.

    Raises:
        TrainingError: there are several ranks, and Horovod is not installed.
    """
    if ranks == 1:
        yield [{}]
        return
    try:
        from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
        from horovod.runner.gloo_run import create_run_env_vars, create_slot_env_vars
        from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer
    except ImportError as error:
        raise TrainingError(_NOT_BUILT.format(error=error)) from error
    plan = get_host_assignments(parse_hosts(f"localhost:{ranks}"), ranks)
    with RendezvousHTTPServer((_LOOPBACK, 0), RendezvousHandler, False) as server:
        server.init(plan)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shared = create_run_env_vars(_LOOPBACK, [_loopback_name()], server.server_port)
        try:
            yield [{**_strings(shared), **create_slot_env_vars(slot)} for slot in plan]
        finally:
            server.shutdown()


def _loopback_name() -> str:
    """Name of the network interface that has 127.0.0.1, such as lo."""
    import psutil

    addresses = psutil.net_if_addrs()
    names = [n for n, of in addresses.items() if _LOOPBACK in [each.address for each in of]]
    return str(names[0])


def _strings(variables: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in variables.items()}


def run_in_spark(
    function: Callable[[], Any], ranks: int, start_timeout: int, log: Any
) -> list[Any]:
    """Run ``function`` on ``ranks`` Spark executors; its results in rank order.

    Args:
        function: pickled by value, so define it locally.
        start_timeout: seconds to wait for as many free task slots as ranks.
        log: text stream for the ranks' output.
    """
    try:
        from horovod import spark
    except ImportError as error:
        raise TrainingError(_NOT_BUILT.format(error=error)) from error
    # Horovod replaces these handlers and does not restore them.
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
