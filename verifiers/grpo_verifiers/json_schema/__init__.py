"""The `json_schema` verifier: JSON that keeps a schema and holds what it should."""

from grpo_verifiers.json_schema.verifier import JsonSchemaVerifier

__all__ = ["JsonSchemaVerifier"]
