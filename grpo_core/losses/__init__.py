"""Losses: one file and one function each, registered by name through `grpo_register_losses`.

A policy loss has the signature of `grpo_core.losses.grpo.grpo_loss`: it takes [B, T] tensors and
the weights of `grpo_core.masking.token_weights`, and returns a `LossOutput` whose loss and metrics
are sums, so that micro-batches and processes add up to the whole batch.
"""
