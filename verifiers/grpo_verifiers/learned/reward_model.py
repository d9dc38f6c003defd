"""The `reward_model` verifier: the score of a sequence-classification model.

Such a model reads the conversation and the completion and says one number (a Bradley-Terry reward,
Ouyang et al. 2022, arXiv 2203.02155) or one for each of several classes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from grpo_core.errors import VerifierError
from grpo_core.types import Json, Sample, Status, Verdict
from grpo_verifiers.learned.calibration import Scored, calibrated
from grpo_verifiers.learned.conversation import Encoded
from grpo_verifiers.learned.endpoint import ClassifyEndpoint
from grpo_verifiers.learned.loading import load_model, preload
from grpo_verifiers.learned.options import (
    DEADLINE,
    UNLIMITED_MB,
    ModelOptions,
    Options,
    check_path,
)
from grpo_verifiers.learned.reader import Reader, open_reader, refused
from grpo_verifiers.learned.scorer import Memory, ModelScorer, Rows, Scorer

_SHOWN_LOGITS = 16


class ServerOptions(Options):
    """Where the model is computed, if not here."""

    url: str = Field(description="Of the server, such as http://localhost:8000.")
    model: str | None = Field(default=None, description="Its name there; None: the only one.")
    api_key_env: str | None = Field(
        default=None, description="Environment variable with the server's key."
    )


class Loaded(NamedTuple):
    """What the first call loads."""

    reader: Reader
    memory: Memory


class RewardModel:
    """The score that a sequence-classification model gives to a completion.

    The score is in [0, 1], correct from `correct_at` on; `details` hold the raw one. References are
    not read. An empty completion is unparseable, whatever the model thinks of silence.
    """

    version = "1.0"
    batch_size = 64
    deadline = DEADLINE
    memory_mb = UNLIMITED_MB
    reads = ("messages",)

    class Config(ModelOptions):
        """Options of the reward model."""

        server: ServerOptions | None = Field(
            default=None,
            description="A vLLM server that computes the model; path then names the tokenizer.",
        )

    def __init__(self, config: Config) -> None:
        check_path(config.path)
        self.config = config
        self.placement = config.runs_in
        self._loaded: Loaded | None = None
        self._lock = threading.Lock()

    def preload(self) -> None:
        """Import what is needed, once, before the process that loads the model is forked."""
        preload(models=self.config.server is None)

    def verify(self, samples: Sequence[Sample]) -> list[Verdict]:
        """One verdict a sample, in order; the first call loads the model.

        Raises:
            VerifierError: if it cannot be loaded, or its server does not answer.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            reader, memory = self._loaded
            texts = [self._read(reader, sample) for sample in samples]
            found = iter(memory.rows([text for text in texts if isinstance(text, Encoded)]))
        return [
            text if isinstance(text, Verdict) else self._verdict(reader, text, next(found))
            for text in texts
        ]

    def _load(self) -> Loaded:
        reader = open_reader(self.config)
        return Loaded(reader, Memory(self._scorer()))

    def _scorer(self) -> Scorer:
        config = self.config
        if (server := config.server) is not None:
            return ClassifyEndpoint(server.url, server.model, server.api_key_env)
        model = load_model(config, "AutoModelForSequenceClassification")
        return ModelScorer(model, "pooled", config.compute.batch_tokens)

    def _read(self, reader: Reader, sample: Sample) -> Encoded | Verdict:
        if not sample.completion.strip():
            return Verdict.unparseable("the completion is empty")
        try:
            text = reader.fit(reader.conversation.encode(sample, sample.completion))
        except VerifierError as error:
            return Verdict.error(str(error))
        return refused(text, reader) if isinstance(text, int) else text

    def _verdict(self, reader: Reader, text: Encoded, rows: Rows) -> Verdict:
        logits = rows[0]
        try:
            scored = calibrated(logits, reader.label(len(logits)), self.config.calibration)
        except VerifierError as error:
            return Verdict.error(str(error))
        is_correct = scored.score >= self.config.correct_at
        return Verdict(
            Status.CORRECT if is_correct else Status.WRONG,
            scored.score,
            f"the reward model gives {scored.raw:.4g}, a score of {scored.score:.3f}",
            _details(scored, logits, text),
        )


def _details(scored: Scored, logits: Sequence[float], text: Encoded) -> dict[str, Json]:
    details: dict[str, Json] = {"raw": scored.raw, "num_tokens": len(text.input_ids)}
    if len(logits) > 1:
        details["logits"] = list(logits[:_SHOWN_LOGITS])
    if scored.is_clamped:
        details["is_clamped"] = True
    if text.num_cut:
        details["num_cut"] = text.num_cut
    return details
