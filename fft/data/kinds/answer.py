"""Answer: a prompt, a text or a conversation, and the one right answer to it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fft.core.errors import InputError
from fft.core.naming import agreeing, counted
from fft.data.backend import json_object
from fft.data.chat import chat_tokens
from fft.data.encoded import Encoded
from fft.data.kinds.completion import PROMPT, prompted
from fft.data.kinds.next_token import NextToken
from fft.data.messages import MESSAGES, from_text
from fft.data.prompts import named_ids
from fft.data.rows import Columns, Rows
from fft.data.sequences import Tokens
from fft.data.tokenize import EncodeOptions, Tokenizer, end_id, unknown_id
from fft.stats.matching import COMPARED, plain
from fft.tasks import Answers, Task
from fft.tasks.answers import Writer

if TYPE_CHECKING:
    from fft.models.model import Checkpoint

ANSWER, QUESTION = "answer", "question"
PROMPTS = (MESSAGES, PROMPT, QUESTION)
"""columns of prompts, of which the first is read"""


def answer_columns(existing: Sequence[str]) -> Columns | None:
    """Return the columns of prompts with answers among the `existing` ones, None without them."""
    if ANSWER not in existing:
        return None
    if MESSAGES in existing:
        return Columns(MESSAGES, ANSWER, None, fixed=True, chat=(MESSAGES,))
    prompt = next((name for name in (PROMPT, QUESTION) if name in existing), None)
    return None if prompt is None else Columns(prompt, ANSWER, None, fixed=True)


class Answer(NextToken):
    """Reads prompts with their answers: learned as completions or as turns of a conversation, and scored by whether the
    model writes the right answer.
    """

    metric = "exact_match"
    unit = "row"
    prompts = True

    @property
    def scored(self) -> str:
        return "answers"

    def columns(self, named: Columns, existing: Sequence[str]) -> Columns:
        return answer_columns(existing) or Columns(PROMPT, ANSWER, None, fixed=True)

    def column_notes(self, existing: Sequence[str]) -> list[str]:
        prompt, *others = [name for name in PROMPTS if name in existing] or [""]
        if not others:
            return []
        unread, are = " and ".join(map(repr, others)), agreeing(len(others), "is", "are")
        return [f"the prompts are those of the column {prompt!r}; {unread} {are} not read"]

    def task(self, name: str, labels: tuple[str, ...] | None, metric: str, rows: Rows) -> Task:
        return Answers(name, metric)

    def sequences(
        self, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions
    ) -> tuple[list[Sequence[Tokens]], list[str]]:
        """Return the sequence of each row, the prompt's ids as generation sees them and those of the answer.

        Raises: InputError also for settings that have no meaning here.
        """
        assert rows.pairs is not None  # `columns` names the answers
        if options.supervise != "answers" or options.cut != "end":
            raise InputError(
                f"{rows.source}: of an answer task only whole answers are learned: leave out --new.loss and --new.cut, "
                "or give --new.kind completion"
            )
        if rows.chat:
            texts = zip(rows.numbers, rows.texts, rows.pairs, strict=True)
            turns = [_last_turn(tokenizer, text, answer, f"{rows.source}, row {at}") for at, text, answer in texts]
            across = sum(crosses for _, crosses in turns)
            sequences = [tokens for tokens, _ in turns]
        else:
            sequences, across = prompted(tokenizer, rows, options)
        notes = [*self.border_notes(across), *_reading_notes(tokenizer, rows.pairs, sequences, options)]
        return [[tokens] for tokens in sequences], notes

    def limited(self, tokens: Tokens, options: EncodeOptions) -> list[Tokens]:
        return [tokens] if len(tokens.ids) - 1 <= options.max_length else []

    def length_note(self, rows: Rows, long: int, pieces: int, options: EncodeOptions) -> str:
        are, most = agreeing(long, "is", "are"), options.max_length
        return f"{counted(long, self.unit)} {are} longer than {most:,} tokens, and no right answer can be cut"

    def denominators(
        self, task: Task, rows: Rows, examples: Sequence[Sequence[Tokens]], tokenizer: Tokenizer
    ) -> np.ndarray:
        """Return what the metric compares with, 1 for every row: that its answer is right, int32 [E].

        Raises: InputError for an expected answer that the tokenizer cannot write, and for one that leaves the metric
        nothing to compare with.
        """
        assert rows.pairs is not None
        compared, unknown = COMPARED[task.metric], unknown_id(tokenizer.backend)
        unknown = None if unknown == end_id(tokenizer) else unknown  # as of GPT-2, which can spell everything
        for number, answer, (tokens,) in zip(rows.numbers, rows.pairs, examples, strict=True):
            where, ids = f"{rows.source}, row {number}: the answer {answer!r:.60}", tokens.ids[tokens.supervised]
            if unknown is not None and unknown in ids:
                raise InputError(
                    f"{where} has characters that the tokenizer of {tokenizer.folder} cannot write, so no answer would "
                    "be right: remove the row, or write it otherwise"
                )
            value = compared(text := text_of(tokenizer, ids))
            if value in ("", None):
                what = "number" if task.metric == "number_match" else "text"
                instead = "" if task.metric == self.metric else f", or another metric, such as {self.metric}"
                raise InputError(
                    f"{where} has no {what} to compare with, as {task.metric} reads its tokens, {text!r:.60}: "
                    f"give one{instead}"
                )
            if task.metric == "number_match" and value != compared(answer):
                raise InputError(
                    f"{where} is {text!r:.60} in the tokens of {tokenizer.folder}, which is another number: give the "
                    "metric exact_match, or write the number otherwise"
                )
        return np.ones(len(examples), np.int32)

    def bound(self, task: Task, checkpoint: "Checkpoint", splits: Mapping[str, Encoded], max_new: int) -> Task:
        most = checkpoint.model.config.max_positions
        for rows in splits.values():
            tokens = rows.example_targets()
            prompts = rows.lengths() - tokens + 1  # the last token of an answer is only a target
            fullest = int(prompts.argmax())
            if prompts[fullest] + max_new > most:
                raise InputError(
                    f"the prompt in row {rows.numbers[fullest]} has {prompts[fullest]} tokens, which with {max_new} "
                    f"new ones are more than the {most} positions of the model: give a smaller --new.max-new "
                    "(--original.max-new, --task.max-new), or shorten the prompt"
                )
            longest = int(tokens.argmax())
            if tokens[longest] > max_new:
                raise InputError(
                    f"the expected answer in row {rows.numbers[longest]} has {tokens[longest]} tokens, and the model "
                    f"writes at most {max_new}: give a larger --new.max-new (--original.max-new, --task.max-new)"
                )
        return Answers(task.name, task.metric, writer=writer_of(checkpoint, max_new))

    def unwatched(self, metric: str) -> str | None:
        return None

    def least_rows(self, drop: float) -> int:
        return int(np.ceil(1 / drop))


def writer_of(checkpoint: "Checkpoint", max_new: int) -> Writer:
    """Return how a checkpoint's answers of at most `max_new` tokens are written and read."""
    size = checkpoint.model.config.vocab_size
    stops = named_ids(checkpoint.folder, checkpoint.raw_config, size, "eos_token_id")
    return Writer(checkpoint.folder, size, stops, max_new)


def text_of(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    """Return the text of an answer's ids, without special tokens and blanks at its ends."""
    return tokenizer.backend.decode(ids.tolist()).strip()


def _reading_notes(
    tokenizer: Tokenizer, answers: Sequence[str], sequences: Sequence[Tokens], options: EncodeOptions
) -> list[str]:
    """Return notes on answers that the template or the tokenizer changes, and on those whose end ends no generation."""
    texts, notes = [text_of(tokenizer, tokens.ids[tokens.supervised]) for tokens in sequences], []
    other = [(text, answer) for text, answer in zip(texts, answers, strict=True) if _bare(text) != _bare(answer)]
    if other:
        text, answer = other[0]
        notes.append(
            f"{counted(len(other), 'answer')} {agreeing(len(other), 'is', 'are')} compared as the chat template or the "
            f"tokenizer {agreeing(len(other), 'writes it', 'write them')}: {answer!r:.60} as {text!r:.60}"
        )
    config = json_object(tokenizer.folder / "config.json")
    stops = named_ids(tokenizer.folder, config, options.vocab_size, "eos_token_id")
    endless = [tokens.ids[-1] for tokens in sequences if tokens.ids[-1] not in stops]
    if endless:
        token, are = tokenizer.backend.id_to_token(int(endless[0])), agreeing(len(endless), "ends", "end")
        notes.append(
            f"{counted(len(endless), 'answer')} {are} in {token!r}, at which generation does not stop, so that what is "
            "written behind it counts too: add its id to eos_token_id in generation_config.json"
        )
    return notes


def _bare(text: str) -> str:
    return "".join(plain(text).casefold().split())


def _last_turn(tokenizer: Tokenizer, conversation: str, answer: str, where: str) -> tuple[Tokens, bool]:
    """Return a conversation with its answer as tokens, of which those of the answer are supervised, and whether a token
    across the border of prompt and answer was split.
    """
    said = from_text(conversation)
    if said[MESSAGES][-1]["role"] == "assistant":
        raise InputError(
            f"{where}: the conversation ends with a message of the assistant, and the column {ANSWER!r} has the answer "
            "too: remove that message"
        )
    said[MESSAGES] = [*said[MESSAGES], {"role": "assistant", "content": answer}]
    tokens = chat_tokens(tokenizer, said, where)
    last = tokens.sequences[-1]
    end = int(np.flatnonzero(last.supervised).max())
    begin = int(np.flatnonzero(~last.supervised[:end]).max()) + 1
    return Tokens(last.ids[: end + 1], np.arange(end + 1) >= begin), bool(tokens.across)
