"""Tokenizer and chat template: do prompts say what they should, and can completions end?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, GenerationConfig

from grpo_core.errors import DataError
from grpo_core.models.load import eos_token_ids, load_tokenizer
from grpo_core.sampling.base import completion_text, encode_prompt
from grpo_core.training.doctor.finding import Bench, Check, Finding, ok, problem, warning
from grpo_core.training.preflight import check_lengths, check_template
from grpo_core.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROMPTS = 32
_ANSWER = "The answer is 42."


def check_tokenizer(bench: Bench) -> Iterator[Finding]:
    """It loads, and names tokens that end a completion.

    Raises:
        DataError: if it does not, or there is no such token.
    """
    bench.tokenizer = tokenizer = load_tokenizer(bench.folder, bench.config.model)
    found = f"{type(tokenizer).__name__}, {len(tokenizer)} tokens"
    bench.eos = eos_token_ids(_configs(bench), tokenizer)
    names = ", ".join(f"{_name(tokenizer, token)} ({token})" for token in sorted(bench.eos))
    found += f"; completions end with {names}"
    numbers = {"tokens": len(tokenizer), "eos": sorted(bench.eos)}
    if tokenizer.eos_token_id is None:
        cure = "Set eos_token in tokenizer_config.json, so that other programs agree."
        yield warning(
            "tokenizer", f"{found}, which the tokenizer itself does not name", cure, **numbers
        )
    else:
        yield ok("tokenizer", found, **numbers)


def _configs(bench: Bench) -> SimpleNamespace:
    """What a model has of its folder's files, without its weights."""
    trusted = bench.config.model.trust_remote_code
    has_file = (bench.base / "generation_config.json").exists()
    return SimpleNamespace(
        config=AutoConfig.from_pretrained(bench.base, trust_remote_code=trusted),
        generation_config=GenerationConfig.from_pretrained(bench.base) if has_file else None,
    )


def check_chat_template(bench: Bench) -> Iterator[Finding]:
    """It leaves the completion to the model, and ends the model's turn with a token that counts."""
    tokenizer, prompt = bench.tokenizer, bench.train[0]
    if not tokenizer.chat_template:
        yield warning(
            "chat template",
            "none; the messages of a prompt are joined by blank lines",
            "Fine for a base model. For a chat model set model.chat_template.",
        )
        return
    try:
        check_template(tokenizer, prompt)
        yield ok("chat template", "applied; it leaves the completion to the model")
    except DataError as error:
        yield problem("chat template", str(error), "")
    ids = encode_prompt(tokenizer, prompt)
    answered = _answered(tokenizer, prompt)
    if answered[: len(ids)] != ids:
        at = next(
            (n for n, pair in enumerate(zip(ids, answered, strict=False)) if len(set(pair)) > 1), 0
        )
        yield warning(
            "generation prompt",
            "a conversation with an answer does not begin with the tokens of the prompt for it: "
            f"from token {at + 1} on it is {_quote(tokenizer, answered[at : at + 8])}, not "
            f"{_quote(tokenizer, ids[at : at + 8])}. The model answers in a context it was not "
            "trained on",
            "Set model.chat_template to a copy whose add_generation_prompt part is what it writes "
            "before an assistant's message.",
        )
        return
    yield ok("generation prompt", "what the template writes before an assistant's message")
    yield _end_of_turn(tokenizer, answered[len(ids) :], bench.eos)


def _answered(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    """The prompt with an answer, as the template writes it."""
    messages: list[dict[str, Any]] = [dict(message) for message in prompt.messages]
    messages.append({"role": "assistant", "content": _ANSWER})
    encoded: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
    return list(encoded["input_ids"])


def _end_of_turn(
    tokenizer: PreTrainedTokenizerBase, turn: Sequence[int], eos: frozenset[int]
) -> Finding:
    """Whether the first token after the answer is one that ends a completion."""
    name = "end of turn"
    for at in range(1, len(turn) + 1):
        if str(tokenizer.decode(list(turn[:at]))).strip().endswith(_ANSWER):
            break
    else:
        return warning(
            name,
            f"the template does not write an answer as it is: {_quote(tokenizer, turn)}",
            "Look at it; what it changes in answers, the model was trained to expect.",
        )
    rest = [token for token in turn[at:] if str(tokenizer.decode([token])).strip()]
    if not rest:
        return warning(
            name,
            "the template writes nothing after an answer, so it does not show how one ends",
            "If completions do not end by themselves, set model.chat_template.",
        )
    if rest[0] in eos:
        return ok(name, f"the template ends an answer with {_name(tokenizer, rest[0])}", id=rest[0])
    names = ", ".join(_name(tokenizer, token) for token in sorted(eos))
    return problem(
        name,
        f"the template ends an answer with {_name(tokenizer, rest[0])} ({rest[0]}), which is not "
        f"among the tokens that end a completion ({names}): completions would run on to "
        "sampling.max_new_tokens",
        f"Add {rest[0]} to eos_token_id in the model's generation_config.json.",
        id=rest[0],
    )


def check_round_trip(bench: Bench) -> Iterator[Finding]:
    """Prompts and references come back from their tokens unchanged; no doubled first token."""
    tokenizer = bench.tokenizer
    prompts = [*bench.train[:_PROMPTS], *bench.held_out[:_PROMPTS]]
    changed = [(p, text) for p in prompts if (text := _lossy(tokenizer, p)) is not None]
    if changed:
        prompt, text = changed[0]
        yield warning(
            "round trip",
            f"{len(changed)} of {len(prompts)} prompts do not come back from their tokens, such as "
            f"'{prompt.id}': {text}",
            "The model sees something else than you wrote; look for characters it does not know.",
            changed=len(changed),
        )
    else:
        yield ok("round trip", f"{len(prompts)} prompts come back from their tokens unchanged")
    yield from _references(tokenizer, prompts)
    yield from _first_token(tokenizer, prompts[0])
    yield _forged_turns(tokenizer, [*bench.train, *bench.held_out])


def _lossy(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str | None:
    """How a prompt differs from what its tokens say, white space aside; None if it does not."""
    ids = encode_prompt(tokenizer, prompt)
    if tokenizer.chat_template:
        messages = [dict(message) for message in prompt.messages]
        text = str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    else:
        text = "\n\n".join(message["content"] for message in prompt.messages)
    decoded = str(tokenizer.decode(ids, skip_special_tokens=not tokenizer.chat_template))
    bos = tokenizer.bos_token or ""
    first, second = ("".join(t.removeprefix(bos).split()) for t in (text, decoded))
    return None if first == second else f"{text[-60:]!r} becomes {decoded[-60:]!r}"


def _references(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> Iterator[Finding]:
    """Answers that the model has no tokens for can never be right."""
    texts = [str(p.reference) for p in prompts if isinstance(p.reference, str | int | float)]
    lost = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        again = completion_text(tokenizer, ids, "length", ())
        if "".join(again.split()) != "".join(text.split()):
            lost.append(f"{text[:40]!r} becomes {again[:40]!r}")
    if lost:
        yield problem(
            "answers in tokens",
            f"{len(lost)} of {len(texts)} references cannot be written by the model: {lost[0]}",
            "Choose another model, or write the references with characters it knows.",
            lost=len(lost),
        )
    elif texts:
        yield ok("answers in tokens", f"the model has tokens for {len(texts)} of {len(texts)}")


def _first_token(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Iterator[Finding]:
    bos = tokenizer.bos_token_id
    ids = encode_prompt(tokenizer, prompt)
    if bos is not None and ids[:2] == [bos, bos]:
        yield problem(
            "first token",
            f"prompts begin with {_name(tokenizer, bos)} twice: by the template and the tokenizer",
            "Remove it from the template (model.chat_template).",
        )
    else:
        yield ok("first token", f"prompts begin with {_name(tokenizer, ids[0])} once")


def _forged_turns(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> Finding:
    """Text that spells a special token is encoded as that token by most tokenizers."""
    name = "special tokens in prompts"
    specials = [token for token in tokenizer.all_special_tokens if token.strip()]
    spelt = [p for p in prompts if any(s in m["content"] for m in p.messages for s in specials)]
    if not spelt:
        return ok(name, f"none of {len(prompts)} prompts spells out any of {len(specials)}")
    token = next(s for s in specials if any(s in m["content"] for m in spelt[0].messages))
    return warning(
        name,
        f"{len(spelt)} of {len(prompts)} prompts spell a special token, such as {token!r} in "
        f"'{spelt[0].id}'; it is encoded as that token, and so can end or forge a turn",
        "Clean the data set, unless that is meant.",
        prompts=len(spelt),
    )


def check_prompt_lengths(bench: Bench) -> Iterator[Finding]:
    """Prompts and answers fit; see `grpo_core.training.preflight.check_lengths`.

    Raises:
        ConfigError: if they do not.
    """
    prompts = [*bench.train[:_PROMPTS], *bench.held_out[:_PROMPTS]]
    longest = check_lengths(bench.config, bench.tokenizer, bench.base, prompts)
    found = f"longest of {len(prompts)} prompts {longest} tokens; answers fit"
    yield ok("lengths", found, longest_prompt=longest)


def _name(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return repr(str(tokenizer.decode([token])))


def _quote(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return repr(str(tokenizer.decode(list(ids)))) if ids else "nothing"


CHECKS = (
    Check("tokenizer", check_tokenizer, needs=("torch", "weights")),
    Check("chat template", check_chat_template, needs=("tokenizer", "task")),
    Check("round trip", check_round_trip, needs=("tokenizer", "task")),
    Check("lengths", check_prompt_lengths, needs=("tokenizer", "task")),
)
