"""Options that all learned verifiers have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from grpo_core.errors import ConfigError
from grpo_verifiers.learned.calibration import Calibration

# A limit on the address space means nothing for a process that maps whole models, and CUDA reserves
# more of it than any machine has memory.
UNLIMITED_MB = 1 << 24
DEADLINE = 600.0  # seconds for a call; the first one loads the model


class Options(BaseModel):
    """Base of all sections: frozen, and strict."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputOptions(Options):
    """How prompt and completion become what the model reads."""

    template: Literal["auto", "chat", "plain", "pair"] = Field(
        default="auto",
        description="chat: by the chat template of this model's own tokenizer; plain: the contents "
        "joined by blank lines; pair: as the two segments of a cross-encoder; auto: chat where the "
        "tokenizer has a template, else plain.",
    )
    drop_system: bool = Field(
        default=False, description="Leave system messages out; some templates take none."
    )
    max_tokens: int | None = Field(
        default=None, ge=1, description="None: as many as the model has positions."
    )
    too_long: Literal["abstain", "truncate", "wrong"] = Field(
        default="abstain",
        description="What becomes of longer inputs. truncate: the beginning is cut off; wrong: "
        "score 0, so that running on does not pay.",
    )


class ComputeOptions(Options):
    """On what the model is computed."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: a GPU if there is one."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 on a GPU that has it, else float32."
    )
    batch_tokens: int = Field(
        default=16384, ge=1, description="Tokens computed at once, padding included."
    )


class ModelOptions(Options):
    """Which model scores, what it reads, and where it runs."""

    path: str = Field(min_length=1, description="Hub id or folder of model and tokenizer.")
    revision: str | None = Field(
        default=None, description="Branch, tag, or commit of a hub id; a commit never changes."
    )
    trust_remote_code: bool = Field(
        default=False, description="Run code that comes with the model."
    )
    input: InputOptions = Field(
        default=InputOptions(), description="How conversations become what the model reads."
    )
    compute: ComputeOptions = Field(
        default=ComputeOptions(), description="Device, dtype, and size of batches."
    )
    runs_in: Literal["process", "trainer"] = Field(
        default="process",
        description="process: one of its own, which can be killed; trainer: a thread of it.",
    )
    calibration: Calibration = Field(
        default=Calibration(), description="How raw scores become scores in [0, 1]."
    )
    correct_at: float = Field(
        default=0.5, ge=0.0, le=1.0, description="Scores from here on are correct."
    )


def check_path(path: str) -> None:
    """Refuse a folder without a model, long before anything is loaded from it.

    Raises:
        ConfigError: saying what is missing.
    """
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        return
    if folder.exists() or path.startswith((".", "/", "~")):
        raise ConfigError(
            f"path '{path}' is no folder of a model: it has no config.json. Give a folder written "
            "by save_pretrained, or a hub id."
        )
