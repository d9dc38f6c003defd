"""The embedded engine: samples from the policy's own transformers model, in this process.

Every prompt is computed once and read by all of its completions; finished completions leave the
batch and waiting ones take their places at once, so that the batch is as large as it may be until
the last ones are under way. Every completion has its own stream of random numbers, so it is the
same whatever it is batched with (up to rounding).

    sampler.py     the engine as the rest of the framework sees it
    schedule.py    which completion is decoded when
    stops.py       stop strings
    columns.py     keys and values of what is being decoded
    passes.py      what the engine asks of a model: prompts, and one token more
    own_forward.py ... through the model's own forward
    plain.py       which models are plain decoders, and their weights
    decoder.py     ... through a forward pass made for decoding plain ones
    attention.py   its attention
    products.py    its products with weights laid out for the CPU
"""

from grpo_core.sampling.hf.sampler import HfSampler, create_sampler

__all__ = ["HfSampler", "create_sampler"]
