"""Getting a causal language model and its tokenizer ready."""
