"""Outputs of a reward model that another process serves, by the /classify call of vLLM.

Texts are sent as tokens, so that the template and its special tokens are ours to decide, and the
server is asked for logits, so that one calibration fits a model wherever it runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import httpx2

from grpo_core.errors import VerifierError
from grpo_verifiers.learned.conversation import Encoded
from grpo_verifiers.learned.scorer import Rows

_ATTEMPTS = 4
_FIRST_PAUSE = 0.5  # seconds, doubled after each attempt
_TIMEOUT = httpx2.Timeout(120.0, connect=10.0)
_BUSY = (408, 429, 500, 502, 503, 504)


class ClassifyEndpoint:
    """A server's address, and how to ask it."""

    def __init__(self, url: str, model: str | None = None, key_variable: str | None = None) -> None:
        """Remember the address; nothing is sent.

        Args:
            url: of the server, such as http://localhost:8000.
            model: name under which it serves the model; None: it serves one only.
            key_variable: environment variable with the key, where it wants one.
        """
        self._url = url.rstrip("/").removesuffix("/classify") + "/classify"
        self._model = model
        self._key_variable = key_variable

    def rows(self, texts: Sequence[Encoded]) -> list[Rows]:
        """The logits of each text, in order.

        Raises:
            VerifierError: if the server does not answer, refuses, or answers something else.
        """
        request: dict[str, Any] = {
            "input": [list(text.input_ids) for text in texts],
            "use_activation": False,
            "add_special_tokens": False,
        }
        if self._model is not None:
            request["model"] = self._model
        reply = self._post(request)
        try:
            data = sorted(reply["data"], key=lambda item: int(item["index"]))
            rows = [tuple(float(value) for value in item["probs"]) for item in data]
        except (KeyError, TypeError, ValueError) as error:
            raise VerifierError(
                f"{self._url} answered {str(reply)[:200]!r}, which is no list of classifications. "
                "Is it a vLLM server of a sequence-classification model?"
            ) from error
        if len(rows) != len(texts) or not all(rows):
            raise VerifierError(f"{self._url} answered {len(rows)} of {len(texts)} texts.")
        return [(row,) for row in rows]

    def _post(self, request: dict[str, Any]) -> Any:
        problem = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_FIRST_PAUSE * 2 ** (attempt - 1))
            try:
                reply = httpx2.post(
                    self._url, json=request, headers=self._headers(), timeout=_TIMEOUT
                )
            except httpx2.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if reply.status_code in _BUSY:
                problem = f"status {reply.status_code}: {reply.text[:200]}"
                continue
            return self._read(reply)
        raise VerifierError(f"{self._url} did not answer in {_ATTEMPTS} attempts: {problem}.")

    def _read(self, reply: httpx2.Response) -> Any:
        if reply.status_code != 200:
            raise VerifierError(
                f"{self._url} refused: status {reply.status_code}: {reply.text[:200]}. Correct "
                "server.url or server.model."
            )
        try:
            return reply.json()
        except ValueError as error:
            raise VerifierError(f"{self._url} answered no JSON: {reply.text[:200]!r}.") from error

    def _headers(self) -> dict[str, str]:
        if self._key_variable is None:
            return {}
        key = os.environ.get(self._key_variable)
        if not key:
            raise VerifierError(f"the environment variable {self._key_variable} is not set.")
        return {"Authorization": f"Bearer {key}"}
