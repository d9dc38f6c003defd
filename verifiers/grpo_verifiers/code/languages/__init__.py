"""Languages of the code verifier: see `grpo_verifiers.code.languages.base`."""
