"""What is remembered of the completions under way: keys and values of prompts and of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from grpo_core.sampling.hf.columns import Columns
from grpo_core.sampling.hf.passes import Prefilled


class Memory:
    """Keys and values of all rows under way.

    Attributes:
        columns: of each row; with its prompt, unless prompts are kept apart.
        prompts: of each prompt that some row follows, if they are kept apart.
        prompt_of: [B] the row of `prompts` that each row follows.
    """

    def __init__(self, rows: int, longest_prompt: int, max_new_tokens: int, *, apart: bool) -> None:
        """Nothing is remembered yet.

        Args:
            rows: under way at most.
            longest_prompt: tokens of the longest prompt.
            max_new_tokens: tokens that may follow it.
            apart: keep a prompt once for all rows that follow it.
        """
        longest = max_new_tokens if apart else longest_prompt + max_new_tokens
        self.columns = Columns(rows, longest)
        self.prompts = Columns(rows, longest_prompt) if apart else None
        self.prompt_of: list[int] = []

    def join(self, computed: Prefilled, index: Sequence[int]) -> None:
        """Add rows that follow the prompts `computed[index]`."""
        device = computed.logits.device
        lengths = [computed.lengths[number] for number in index]
        if self.prompts is None:
            self.columns.join(computed.states, torch.tensor(index, device=device), lengths)
            return
        used = list(dict.fromkeys(index))
        start = len(self.prompts.spans)
        slots = {number: start + at for at, number in enumerate(used)}
        self.prompts.join(
            computed.states,
            torch.tensor(used, device=device),
            [computed.lengths[number] for number in used],
        )
        self.prompt_of += [slots[number] for number in index]
        self.columns.join(computed.states, torch.tensor(index, device=device), [0] * len(index))

    def leave(self, rows: Sequence[int]) -> list[int]:
        """Forget rows, and prompts that no row follows any more.

        Returns:
            for every row that is left, the place that it had before.
        """
        order = self.columns.leave(rows)
        if self.prompts is not None:
            followed = [self.prompt_of[row] for row in order]
            gone = set(range(len(self.prompts.spans))) - set(followed)
            places = {old: new for new, old in enumerate(self.prompts.leave(sorted(gone)))}
            self.prompt_of = [places[slot] for slot in followed]
        return order
