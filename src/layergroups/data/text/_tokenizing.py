"""`TextTransform`: texts to tokens of a model, and tokens to batches."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from layergroups._checks import whole_number
from layergroups.errors import DataError

DEFAULT_MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"
LONG: Final = ("truncate", "windows")
_MOST: Final = 512  # tokens, if nobody asks for more: attention grows with the square
MAX_TOKENS: Final = 16384  # of a batch
_KIND: Final = "text"
_FOLDER: Final = "tokenizer"
_TRIAL: Final = ("These words are for a dry run of the model.", "These are as well.")


class Encoded(NamedTuple):
    """One text as tokens: a tensor int32 (inputs, L) for each window, one if it is short enough."""

    windows: tuple[Tensor, ...]
    cut: bool  # whether tokens were left out

    @property
    def length(self) -> int:
        """Tokens of the longest window."""
        return int(self.windows[0].shape[1])


@dataclass(frozen=True)
class TextTransform:
    """The tokenizer of a model, and what happens to texts that are too long for it.

    Attributes:
        model: a name on the hub, or a folder; "hf://" and "local-dir:" before it are left out.
        max_length: tokens of a text, or of one window of it, special tokens included.
        long: "truncate" leaves out what is beyond; "windows" reads it in windows that overlap by an
            eighth, whose vectors are averaged.
        max_tokens: tokens of all windows of a text; windows beyond are left out.
        columns: of how many columns a text is made; 0 if that is not known.
    """

    model: str
    max_length: int
    long: str
    tokenizer: Any = field(compare=False, repr=False)
    max_tokens: int = MAX_TOKENS
    columns: int = 0

    @classmethod
    def of(
        cls,
        model: str | os.PathLike[str],
        max_length: int | None = None,
        long: str = "truncate",
        max_tokens: int = MAX_TOKENS,
        columns: int = 0,
    ) -> TextTransform:
        """Load the tokenizer; None for as many tokens as the model takes, at most 512."""
        if long not in LONG:
            raise DataError(
                f'long={long!r}: expected "truncate", which leaves out the end of a long text, or '
                '"windows", which reads all of it.'
            )
        if max_length is not None:
            whole_number("max_length", max_length, 4, 256, DataError)
        whole_number("max_tokens", max_tokens, 1, MAX_TOKENS, DataError)
        name = os.fspath(model)
        for prefix in ("hf://", "hf-hub:", "local-dir:"):
            name = name.removeprefix(prefix)
        tokenizer, limit = _tokenizer_of(name)
        if max_length is not None and max_length > limit:
            raise DataError(
                f"max_length={max_length}, but {name} takes {limit} tokens at most. Give "
                f'max_length={limit}, and long="windows" to read longer texts.'
            )
        length = min(limit, _MOST) if max_length is None else max_length
        return cls(name, length, long, tokenizer, max_tokens, columns)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The model's inputs that the tokenizer gives, without the attention mask."""
        names = self.tokenizer.model_input_names
        return tuple(name for name in names if name != "attention_mask")

    @property
    def vocabulary(self) -> str:
        """The tokens and how texts become some, as a short text that differs where they do."""
        found = self.tokenizer.get_vocab()
        sample = self.tokenizer("A short Text.")["input_ids"]  # special tokens, capital letters
        mark = zlib.crc32(repr((sorted(found.items()), sample, self.inputs)).encode())
        return f"tokens of a vocabulary of {len(found)} ({mark:08x})"

    @property
    def separator(self) -> str:
        """What stands between the texts of several columns."""
        mark = self.tokenizer.sep_token
        return f" {mark} " if mark else "\n"

    @property
    def overlap(self) -> int:
        """Tokens that a window shares with the one before it, without special tokens."""
        return self.max_length // 8 if self.long == "windows" else 0

    @property
    def most_windows(self) -> int:
        """Windows of a text at most."""
        return max(1, self.max_tokens // self.max_length) if self.long == "windows" else 1

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """The tokens of each text."""
        most = self.most_windows
        made = self.tokenizer(
            [_encodable(text) for text in texts],
            truncation=True,
            max_length=self.max_length,
            stride=self.overlap,
            return_overflowing_tokens=True,
            return_attention_mask=False,
        )
        parts: list[list[Tensor]] = [[] for _ in texts]
        cut = [False] * len(texts)
        for row, text in enumerate(made["overflow_to_sample_mapping"]):
            cut[text] = len(parts[text]) == most
            if not cut[text]:
                tokens = [made[name][row] for name in self.inputs]
                parts[text].append(torch.tensor(tokens, dtype=torch.int32))
        blank = torch.full((len(self.inputs), 1), self._blank, dtype=torch.int32)
        return [
            Encoded(tuple(each if each.shape[1] else blank for each in found), is_cut)
            for found, is_cut in zip(parts, cut, strict=True)
        ]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of the first window begins and ends; (0, 0) for special tokens."""
        made = self.tokenizer(
            _encodable(text),
            truncation=True,
            max_length=self.max_length,
            return_offsets_mapping=True,
        )
        return [(int(start), int(end)) for start, end in made["offset_mapping"]]

    @property
    def _blank(self) -> int:
        """The token of a text without tokens."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(int(token) for token in known if token is not None)

    @property
    def padding(self) -> int:
        """The token that fills short texts up; the attention mask leaves it out."""
        return int(self.tokenizer.pad_token_id or 0)

    def collate(self, texts: Sequence[Encoded]) -> dict[str, Tensor]:
        """Inputs of the model, int64 (N, L) padded on the right; (N, K, L) for K windows."""
        longest = max(each.length for each in texts)
        most = max(len(each.windows) for each in texts)
        shape = (len(texts), most, longest)
        padding = {"input_ids": self.padding}
        made = {n: torch.full(shape, padding.get(n, 0), dtype=torch.long) for n in self.inputs}
        mask = torch.zeros(shape, dtype=torch.long)
        for row, each in enumerate(texts):
            for window, tokens in enumerate(each.windows):
                length = tokens.shape[1]
                mask[row, window, :length] = 1
                for values, found in zip(made.values(), tokens, strict=True):
                    values[row, window, :length] = found
        made["attention_mask"] = mask
        return made if most > 1 else {name: value[:, 0] for name, value in made.items()}

    def example(self) -> dict[str, Tensor]:
        """A batch of two texts, for a dry run."""
        return self.collate(self.encode(_TRIAL))

    def trial(self) -> dict[str, Tensor]:
        """A batch of two texts to try an exported file with; of windows, one text has two."""
        long, short = replace(self, long="truncate").encode(_TRIAL)
        if self.long == "windows":
            long = Encoded((*long.windows, *short.windows), False)
        return self.collate([short, long])

    def to_config(self) -> dict[str, Any]:
        """The settings, JSON-ready; `save` writes the tokenizer."""
        return {
            "kind": _KIND,
            "max_length": self.max_length,
            "long": self.long,
            "max_tokens": self.max_tokens,
            "columns": self.columns,
        }

    def save(self, folder: Path) -> None:
        """Write the tokenizer into a folder, where `text_transform_from_config` finds it."""
        self.tokenizer.save_pretrained(str(folder / _FOLDER))


def _encodable(text: str) -> str:
    """The text with "?" for halves of characters, as they stay when a text is cut anywhere."""
    return text.encode(errors="replace").decode()


def is_text_config(config: Mapping[str, Any]) -> bool:
    """Whether the config of a transform is one of texts."""
    return config.get("kind") == _KIND


def text_transform_from_config(config: Mapping[str, Any], folder: Path) -> TextTransform:
    """The transform of an export."""
    known = {key: int(config[key]) for key in ("max_tokens", "columns") if key in config}
    length, long = config.get("max_length"), str(config.get("long"))
    return TextTransform.of(folder / _FOLDER, length, long, **known)


def _tokenizer_of(name: str) -> tuple[Any, int]:
    """The fast tokenizer of a model, and the most tokens that tokenizer and model take."""
    try:
        from transformers import AutoTokenizer
    except ImportError as cause:
        raise DataError(
            'Texts need the package transformers: pip install "layergroups[transformers]".'
        ) from cause
    if (name.count("/") > 1 or name.startswith(("/", ".", "~"))) and not os.path.isdir(name):
        raise DataError(
            f"There is no folder {name}. Give the folder of a model, or its name on the hub, such "
            f'as "{DEFAULT_MODEL}".'
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as cause:  # transformers, tokenizers and the hub raise anything
        message = " ".join(str(cause).split()) or type(cause).__name__
        raise DataError(
            f"No tokenizer can be loaded from {name!r}: {message:.300} Give a model on the hub, "
            f'such as "{DEFAULT_MODEL}", or the folder of one.'
        ) from cause
    if not tokenizer.is_fast:
        raise DataError(
            f"The tokenizer of {name} is slow ({type(tokenizer).__name__}); a fast one is needed, "
            "whose file is tokenizer.json."
        )
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes an empty one
        raise DataError(
            f"The tokenizer of {name} knows no words, because its files are missing. Save them "
            f"there: AutoTokenizer.from_pretrained(original).save_pretrained({name!r})."
        )
    limits = [int(tokenizer.model_max_length), _positions(name)]
    return tokenizer, min(limit for limit in limits if limit > 0)


def _positions(name: str) -> int:
    """The most tokens by the model's config; 0 if unknown."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError):  # an export has the tokenizer alone
        return 0
    try:
        return int(getattr(config, "max_position_embeddings", 0) or 0)
    except NotImplementedError:  # XLNet: no limit
        return 0
