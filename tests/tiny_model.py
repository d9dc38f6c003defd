"""Tiny random models with a byte-level tokenizer, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    GptOssConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PhimoeConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    set_seed,
)

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and four special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        chat_template=TEMPLATE,
    )


def tiny_model(
    family: str = "llama", *, tied: bool = True, seed: int = 0, **changes: object
) -> PreTrainedModel:
    """A random causal language model of a family, in float32 and evaluation mode."""
    vocabulary = len(tiny_tokenizer())
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    common = {"vocab_size": vocabulary, "eos_token_id": 0, "pad_token_id": 0, "bos_token_id": None}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = {
        "llama": lambda: LlamaConfig(**size, **heads, **common, tie_word_embeddings=tied),
        "qwen2": lambda: Qwen2Config(**size, **heads, **common, tie_word_embeddings=tied),
        "qwen3": lambda: Qwen3Config(
            **size, **heads, **common, head_dim=8, tie_word_embeddings=tied
        ),
        "mistral": lambda: MistralConfig(
            **size, **heads, **common, sliding_window=None, tie_word_embeddings=tied
        ),
        "gpt2": lambda: GPT2Config(
            **common,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=512,
            tie_word_embeddings=tied,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        ),
        "opt": lambda: OPTConfig(
            **common,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            dropout=0.1,
        ),
        "bloom": lambda: BloomConfig(**common, hidden_size=32, n_layer=2, n_head=4),
        "gpt_neo": lambda: GPTNeoConfig(
            **common,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            max_position_embeddings=512,
            attention_types=[[["global", "local"], 1]],
            window_size=40,
        ),
        "gemma2": lambda: Gemma2Config(
            **size, **heads, **common, head_dim=8, attn_logit_softcapping=1.0
        ),
        "gemma3": lambda: Gemma3TextConfig(
            **size,
            **heads,
            **common,
            head_dim=8,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
        ),
        "gpt_oss": lambda: GptOssConfig(
            **size,
            **heads,
            **common,
            head_dim=8,
            sliding_window=8,
            num_local_experts=4,
            num_experts_per_tok=2,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        ),
        "phimoe": lambda: PhimoeConfig(
            **size, **heads, **common, num_local_experts=4, sliding_window=None
        ),
        "lfm2": lambda: Lfm2Config(
            **size, **heads, **common, layer_types=["conv", "full_attention"]
        ),
        "mamba": lambda: MambaConfig(**common, hidden_size=32, num_hidden_layers=2),
    }[family]()
    for name, value in changes.items():
        setattr(config, name, value)
    set_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(3)  # livelier than the usual initialisation
    return model.eval()


def save_tiny_model(folder: Path, family: str = "llama", seed: int = 0, **changes: object) -> Path:
    """Write model and tokenizer so that `from_pretrained` reads them."""
    model = tiny_model(family, seed=seed, **changes)
    model.generation_config.eos_token_id = 0
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
