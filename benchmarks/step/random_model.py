"""Models of random weights and any shape, with a tokenizer of as many tokens as they want."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"
TEMPLATE = "{% for m in messages %}{{ m['content'] }}" + END + "{% endfor %}"
HEAD_SIZE = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model of Llama's kind; heads of 64, three queries a key, tied embeddings."""

    vocabulary: int = 8192
    hidden: int = 384
    layers: int = 6

    def config(self) -> LlamaConfig:
        """As transformers wants it."""
        heads = self.hidden // HEAD_SIZE
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.hidden * 8 // 3 // 64 * 64,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 3 if heads % 3 == 0 else heads,
            head_dim=HEAD_SIZE,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )


def save_random_model(folder: Path, shape: Shape) -> Path:
    """Write model and tokenizer so that `from_pretrained` reads them."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape.config())
    model.generation_config.eos_token_id = 0
    model.save_pretrained(folder)
    _tokenizer(shape.vocabulary).save_pretrained(folder)
    return folder


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token a byte; the rest of the vocabulary are words that no text is read as."""
    symbols = [END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    symbols += [f"w{number}" for number in range(vocabulary - len(symbols))]
    table = {symbol: number for number, symbol in enumerate(symbols[:vocabulary])}
    tokenizer = Tokenizer(models.BPE(vocab=table, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, chat_template=TEMPLATE
    )
