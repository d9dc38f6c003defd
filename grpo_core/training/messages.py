"""Bytes of any length between the processes of a run; all of them take part in each exchange.

torch is imported where processes talk, so that `grpo train --help` is quick.
"""

from __future__ import annotations


def send(data: bytes) -> None:
    """From process 0 to the others, which call `receive`."""
    import torch
    import torch.distributed as dist

    dist.broadcast(torch.tensor([len(data)]), 0)
    if data:
        dist.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0)


def receive() -> bytes:
    """What process 0 sends."""
    import torch
    import torch.distributed as dist

    length = torch.zeros(1, dtype=torch.int64)
    dist.broadcast(length, 0)
    data = torch.zeros(int(length), dtype=torch.uint8)
    if len(data):
        dist.broadcast(data, 0)
    return data.numpy().tobytes()


def exchange(mine: bytes, size: int) -> list[bytes]:
    """What each process gives, by rank."""
    import torch
    import torch.distributed as dist

    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    dist.all_gather(lengths, torch.tensor([len(mine)]))
    width = max(int(length) for length in lengths)
    padded = torch.zeros(width, dtype=torch.uint8)
    padded[: len(mine)] = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
    replies = [torch.zeros(width, dtype=torch.uint8) for _ in range(size)]
    dist.all_gather(replies, padded)
    return [
        reply[: int(length)].numpy().tobytes()
        for reply, length in zip(replies, lengths, strict=True)
    ]
