"""Several processes on one machine that train one model: a leader gives orders, others follow.

Process 0 runs the whole program. What all must do together begins with `World.order`, which sends
its name and arguments to the others; they wait for it in `grpo_core.training.follower` and call the
same function. So what the leader alone can meet, such as a failing verifier, a full disk or Ctrl-C,
needs no agreement: the others wait for the next order, be it "save" or "stop".

In a world of one process nothing here does anything. torch is imported where processes talk, so
that `grpo train --help` is quick.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from grpo_core import errors
from grpo_core.errors import ConfigError, GrpoError, MissingExtraError, TrainingError
from grpo_core.training.messages import exchange, receive, send
from grpo_core.types import Json

if TYPE_CHECKING:
    from torch import Tensor

# Others wait while the leader verifies, evaluates or downloads, however long that takes; that a
# process has died shows at once in the connection.
_TIMEOUT = timedelta(days=30)
_STOP = "stop"
_CONNECTION = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Socket")

Result = TypeVar("Result")


class ProcessLost(TrainingError):
    """A process has died, or they are no longer in step; nothing can be done together."""


class _CalledOff(Exception):
    """Another process has failed, so there is no use in going on."""


class Order(NamedTuple):
    """What the others are asked to do: a name, plain values, and a record in bytes."""

    name: str
    values: Mapping[str, Json]
    data: bytes


class World:
    """The processes of a run.

    Attributes:
        rank: of this process; 0 leads.
        size: how many there are.
        is_broken: whether they can do nothing together any more, not even save.
    """

    def __init__(self, rank: int = 0, size: int = 1, flags: Any = None) -> None:
        self.rank = rank
        self.size = size
        self.is_broken = False
        self._flags = flags
        self._gathers = 0
        self._agreed: BaseException | None = None

    @contextmanager
    def order(self, name: str, data: Callable[[], bytes] = bytes, **values: Json) -> Iterator[None]:
        """What happens inside, every process does; the leader makes the others begin.

        Args:
            name: of a function in `grpo_core.training.follower`.
            data: a record that goes with it, made only if there is somebody to send it to.
            values: plain arguments.

        Raises:
            ProcessLost: if a process has died, or an earlier order was not carried out to its end.
        """
        if self.size == 1:
            yield
            return
        if self.is_broken:
            raise ProcessLost(
                "the processes of the run are out of step after an earlier failure, and nothing "
                "more can be saved."
            )
        self.is_broken = True  # until this has ended as it should
        try:
            if self.rank == 0:
                send(json.dumps([name, values]).encode())
                send(data())
            yield
        except RuntimeError as error:
            if not isinstance(error, GrpoError) and any(sign in str(error) for sign in _CONNECTION):
                raise _lost(error) from error
            self.is_broken = error is not self._agreed
            raise
        except BaseException as error:
            self.is_broken = error is not self._agreed
            raise
        self.is_broken = False

    def receive(self) -> Order:
        """The next order, for which a follower waits.

        Raises:
            ProcessLost: if the leader has died.
        """
        try:
            name, values = json.loads(receive())
            return Order(name, values, receive())
        except RuntimeError as error:
            raise _lost(error) from error

    def dismiss(self) -> None:
        """The leader's last order: the others end."""
        if self.size > 1 and not self.is_broken:
            with self.order(_STOP):
                pass

    def leave(self) -> None:
        """The end, for all at once: one that goes early may abort those still connected to it."""
        import torch.distributed as dist

        if not self.is_broken:
            dist.barrier()
        self._flags = None
        dist.destroy_process_group()

    def is_agreed(self, error: BaseException) -> bool:
        """Whether every process met this failure at the same place, so that they are in step."""
        return error is self._agreed

    def agreed(self, error: Exception) -> Exception:
        """Note that every process raises this now, so that they are in step after it."""
        self._agreed = error
        return error

    def gather(self, work: Callable[[], bytes]) -> list[bytes]:
        """What `work` gives in each process, by rank; where it fails in one, all fail.

        Raises:
            Exception: what `work` raises here; or else the first failure of another process, as a
                GrpoError that names it.
        """
        if self.size == 1:
            return [work()]
        self._gathers += 1
        failure: Exception | None = None
        try:
            mine = b"+" + work()
        except _CalledOff as error:
            failure, mine = error, b"?"
        except Exception as error:  # noqa: BLE001 - raised again below
            self._flags.set(self._flag(), "")
            failure, mine = error, b"-" + json.dumps([type(error).__name__, str(error)]).encode()
        replies = exchange(mine, self.size)
        if failure is not None and not isinstance(failure, _CalledOff):
            raise self.agreed(failure)
        for rank, reply in enumerate(replies):
            if reply[:1] == b"-":
                raise self.agreed(_failure_of(rank, *json.loads(reply[1:])))
        return [reply[1:] for reply in replies]

    def together(self, work: Callable[[], Result]) -> Result:
        """What `work` gives here, once it has succeeded in every process.

        Raises:
            Exception: as `gather`.
        """
        results: list[Result] = []

        def keep() -> bytes:
            results.append(work())
            return b""

        self.gather(keep)
        return results[0]

    def check(self) -> None:
        """Called now and then in long work under `gather`: leave it when another process failed."""
        if self.size > 1 and self._flags.check([self._flag()]):
            raise _CalledOff

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value, added up over all processes in float64; all have the same names."""
        if self.size == 1:
            return dict(values)
        import torch

        names = sorted(values)
        totals = torch.tensor([values[name] for name in names], dtype=torch.float64)
        return dict(zip(names, self.sum_tensor(totals).tolist(), strict=True))

    def sum_tensor(self, values: Tensor) -> Tensor:
        """A CPU tensor added up over all processes."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(values)
        return values

    def _flag(self) -> str:
        return f"grpo-failed-{self._gathers}"


def num_processes() -> int:
    """How many processes torchrun started, this one among them; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def open_world() -> Iterator[World]:
    """The processes that torchrun started, or this one alone. At its end the leader sends "stop".

    Raises:
        ConfigError: if they are on several machines.
    """
    size = num_processes()
    if size == 1:
        yield World()
        return
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
    if here != size:
        raise ConfigError(
            f"torchrun started {size} processes, {here} of them on this machine; all must be on "
            "one. Start it with --nnodes 1."
        )
    import torch
    import torch.distributed as dist

    gpu = int(os.environ.get("LOCAL_RANK", "0"))
    if gpu < torch.cuda.device_count():
        torch.cuda.set_device(gpu)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    port = int(os.environ["MASTER_PORT"])
    flags = dist.TCPStore(  # type: ignore[attr-defined] # torch's stubs leave it out
        os.environ["MASTER_ADDR"], port, is_master=False
    )
    world = World(dist.get_rank(), dist.get_world_size(), flags)
    try:
        yield world
    finally:
        if world.rank == 0:
            world.dismiss()
        world.leave()


def is_stop(order: Order) -> bool:
    """Whether it is the last order."""
    return order.name == _STOP


def _lost(error: Exception) -> ProcessLost:
    reason = str(error).strip().splitlines()[0]
    return ProcessLost(
        f"a process of the run has died, and the others cannot go on without it ({reason:.200}). "
        "What it printed, or the system's log (out of memory?), may say why."
    )


def _failure_of(rank: int, kind: str, message: str) -> GrpoError:
    """The failure of another process, of the same kind where it is one of ours."""
    known = getattr(errors, kind, None)
    if (
        isinstance(known, type)
        and issubclass(known, GrpoError)
        and known is not MissingExtraError  # which makes its message itself
    ):
        return known(f"process {rank}: {message}")
    return TrainingError(f"process {rank}: {kind}: {message}")
