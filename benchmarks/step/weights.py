"""How many weights a model has, by what they cost a token."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from step.roofline import Weights


def count_weights(folder: str) -> Weights:
    """Weights of a model's layers, of its head, and all; nothing is loaded."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    total = sum(parameter.numel() for parameter in model.parameters())  # tied ones count once
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    looked_up = {id(embedding): embedding.numel(), id(head): head.numel()}
    return Weights(layers=total - sum(looked_up.values()), head=head.numel(), total=total)
