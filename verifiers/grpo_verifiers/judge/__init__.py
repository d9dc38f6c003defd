"""The `judge` verifier: a language model behind an OpenAI-compatible endpoint."""
