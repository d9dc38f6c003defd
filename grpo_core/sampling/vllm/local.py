"""vLLM as an engine in this process: continuous batching and a paged key-value cache.

One request stands for one completion; vLLM's prefix cache shares the prompt.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from grpo_core.errors import SamplingError
from grpo_core.sampling.vllm.messages import Drawn, Order
from grpo_core.sampling.vllm.weights import load_into

_Request = tuple[Sequence[int], Any]  # prompt token ids, vLLM's SamplingParams


class VllmEngine:
    """See `grpo_core.sampling.vllm.messages.Engine`.

    Args:
        llm: a vllm.LLM from `start_vllm`.
        can_sleep: whether it was started so that it can give up the memory of a GPU.
    """

    def __init__(self, llm: Any, *, can_sleep: bool = False) -> None:
        self.llm = llm
        self._can_sleep = can_sleep
        self._is_asleep = False
        model = llm.llm_engine.model_config
        self.max_length = int(model.max_model_len)
        self.vocab_size = int(model.get_vocab_size())
        sizes = llm.apply_model(lambda model: sum(p.nbytes for p in model.parameters()))
        self.weight_bytes = sum(sizes)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Overwrite all weights; see `Engine`."""
        load_into(self.llm, weights)
        if not self.llm.reset_prefix_cache():
            raise SamplingError(
                "vLLM did not drop the cached prompts of the old weights: requests are still "
                "running. This is a fault in grpo-core; please report it."
            )

    def draw(self, order: Order) -> Generator[Drawn | None, None, None]:
        """Draw completions; see `Engine`."""
        requests = {
            f"{at}-{index}": (draws.token_ids, _drawing(order, seed))
            for at, draws in enumerate(order.prompts)
            for index, seed in enumerate(draws.seeds)
        }
        for result in self._run(requests):
            if result is None:
                yield None
                continue
            at, index = map(int, result.request_id.split("-"))
            output = result.outputs[0]
            token_ids = tuple(output.token_ids)
            yield Drawn(
                prompt=at,
                index=index,
                token_ids=token_ids,
                logprobs=tuple(_chosen(output.logprobs, token_ids)),
                reason=str(output.finish_reason),
            )

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of every token but the first; see `Engine`."""
        scoring = _scoring()
        requests = {str(at): (sequence, scoring) for at, sequence in enumerate(sequences)}
        results = {result.request_id: result for result in self._run(requests) if result}
        return [
            _chosen(results[str(at)].prompt_logprobs[1:], sequence[1:])
            for at, sequence in enumerate(sequences)
        ]

    def wake(self) -> bool:
        """Take the GPU's memory back; what was dropped includes the weights."""
        if not self._is_asleep:
            return False
        self.llm.wake_up()
        self._is_asleep = False
        return True

    def rest(self) -> None:
        """Leave the GPU's memory to the trainer, weights and all: it has them anyway."""
        if self._can_sleep:
            self.llm.sleep(level=2)
            self._is_asleep = True

    def close(self) -> None:
        """Stop vLLM and free its memory."""
        self.llm.llm_engine.engine_core.shutdown()

    def _run(self, requests: Mapping[str, _Request]) -> Generator[Any, None, None]:
        """Run requests side by side, yielding each when it is finished, and None after each step.

        Those still running when the caller closes the generator are dropped.
        """
        engine = self.llm.llm_engine
        waiting = set(requests)
        try:
            for name, (token_ids, params) in requests.items():
                engine.add_request(name, {"prompt_token_ids": list(token_ids)}, params)
            while engine.has_unfinished_requests():
                for result in engine.step():
                    if result.finished:
                        waiting.discard(result.request_id)
                        yield result
                yield None
        finally:
            engine.abort_request(sorted(waiting))


def _drawing(order: Order, seed: int) -> Any:
    """One completion in vLLM's words."""
    from vllm.sampling_params import RequestOutputKind
    from vllm.sampling_params import SamplingParams as VllmParams

    return VllmParams(
        max_tokens=order.max_new_tokens,
        temperature=order.temperature,
        top_p=order.top_p,
        top_k=order.top_k,
        stop=list(order.stop),
        stop_token_ids=list(order.eos),
        ignore_eos=True,
        seed=seed,
        logprobs=0,  # of the drawn token alone
        detokenize=bool(order.stop),  # only to find stop strings
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _scoring() -> Any:
    from vllm.sampling_params import RequestOutputKind
    from vllm.sampling_params import SamplingParams as VllmParams

    return VllmParams(
        max_tokens=1,
        temperature=0,
        prompt_logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _chosen(positions: Sequence[Mapping[int, Any]], token_ids: Sequence[int]) -> list[float]:
    """The log-probabilities of the tokens that stand there."""
    return [
        float(position[token].logprob) for position, token in zip(positions, token_ids, strict=True)
    ]
