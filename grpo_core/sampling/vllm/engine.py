"""The sampling engine "vllm": vLLM in the trainer's process.

vLLM keeps a copy of the policy's weights in a layout of its own. `update_weights` writes the
policy's over it after every optimiser step, and `probe_logprobs` lets the trainer find out whether
they arrived.

The draws are vLLM's, not those of the embedded engine: the same seed gives other completions.
Left out: several GPUs.
"""

from __future__ import annotations

from importlib.util import find_spec

from grpo_core.errors import MissingExtraError
from grpo_core.sampling.base import SamplerContext
from grpo_core.sampling.vllm.local import VllmEngine
from grpo_core.sampling.vllm.sampler import EngineSampler
from grpo_core.sampling.vllm.start import start_vllm


class VllmSampler(EngineSampler):
    """Samples with vLLM; see `Sampler` and `ProbedSampler` in grpo_core.protocols."""

    @staticmethod
    def check_installed() -> None:
        """Tell whether vLLM is there, without importing it.

        Raises:
            MissingExtraError: if it is not.
        """
        if find_spec("vllm") is None:
            raise MissingExtraError("sampling.engine 'vllm'", "vllm")

    def __init__(self, context: SamplerContext) -> None:
        self.check_installed()
        model = context.model
        # Between sampling phases the trainer needs a GPU's memory more; vLLM can sleep there only.
        can_sleep = model.device.type == "cuda"
        llm = start_vllm(
            context.model_path, model.device, model.dtype, context.config, can_sleep=can_sleep
        )
        super().__init__(context, VllmEngine(llm, can_sleep=can_sleep))
