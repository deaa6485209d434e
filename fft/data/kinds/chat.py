"""Chat: conversations, of which the assistant's turns are predicted."""

from collections.abc import Sequence

from fft.core.naming import counted
from fft.data.chat import chat_tokens
from fft.data.kinds.next_token import NextToken
from fft.data.messages import MESSAGES, chat_columns, from_text
from fft.data.rows import Columns, Rows
from fft.data.sequences import Tokens
from fft.data.tokenize import EncodeOptions, Tokenizer


class Chat(NextToken):
    """Reads conversations, put into the tokenizer's chat template; by default the assistant's turns are supervised."""

    unit = "conversation"
    prompts = True

    def columns(self, named: Columns, existing: Sequence[str]) -> Columns:
        return Columns(MESSAGES, None, None, fixed=True, chat=chat_columns(existing) or (MESSAGES,))

    def sequences(
        self, rows: Rows, tokenizer: Tokenizer, options: EncodeOptions
    ) -> tuple[list[Sequence[Tokens]], list[str]]:
        """Return one sequence for each conversation, or one for each of its turns where the template rewrites earlier
        turns, as those do that drop what a model thought.
        """
        examples: list[Sequence[Tokens]] = []
        across = split = 0
        for number, text in zip(rows.numbers, rows.texts, strict=True):
            where = f"{rows.source}, row {number}"
            tokens = chat_tokens(tokenizer, from_text(text), where, options.supervise == "all")
            across += bool(tokens.across)
            split += len(tokens.sequences) > 1
            examples.append(tokens.sequences)
        notes = self.border_notes(across)
        if split:
            notes.append(
                f"{counted(split, 'conversation')} learned one turn at a time, because the chat template writes "
                "earlier turns in another way once others follow"
            )
        return examples, notes
