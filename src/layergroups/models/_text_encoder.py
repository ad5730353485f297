"""Encoders of transformers for texts: loaded, pooled to one vector for each text, with a head."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from layergroups._torch import is_exporting
from layergroups.anatomy import eval_mode
from layergroups.errors import ModelError, UnknownArchitectureError, WeightsError

_LOG = logging.getLogger("layergroups")
_ROUNDING: Final = 1e-3  # relative
POOLINGS: Final = ("mean", "cls", "last")
_STATED: Final = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
# Entries of a config that could fetch or run other code, or that only describe the file.
_NOT_BUILT: Final = (
    "auto_map", "attn_implementation", "_attn_implementation", "experts_implementation",
    "quantization_config", "custom_pipelines", "dtype", "torch_dtype", "_name_or_path",
)  # fmt: skip


class BodyWithHead(nn.Sequential):
    """A body and a head, as `Sequential(body, head)`, for batches that are dicts.

    Shapes: keyword arguments of the body in, such as input_ids (N, L); outputs of the head.
    """

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Run the body on all inputs, and the head on its output."""
        return self[1](self[0](*args, **inputs))


class NoPooler(nn.Module):
    """In place of a pooler that a model calls even if it is None, as SqueezeBERT does."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        """Give back the hidden states."""
        return hidden


class TextEncoder(nn.Module):
    """An encoder of transformers that gives one vector for each text.

    Shapes: input_ids and attention_mask (N, L), or (N, K, L) for texts of up to K windows, whose
    vectors are averaged; other inputs likewise; float (N, F) out.

    Attributes:
        encoder: the model of transformers.
        pooling: "mean" of the tokens, "cls" (the first) or "last".
    """

    def __init__(self, encoder: nn.Module, pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = checked_pooling(pooling)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Encode tokens, and pool them."""
        mask = inputs["attention_mask"]
        if mask.ndim == 2:
            return self._vectors(inputs)
        present = mask.any(-1)  # (N, K): the windows that a text has
        if is_exporting():
            return self._mean_of_all(inputs, present)
        vectors = self._vectors({name: value[present] for name, value in inputs.items()})
        text = present.nonzero()[:, 0]
        total = vectors.new_zeros(len(mask), vectors.shape[1]).index_add(0, text, vectors)
        return total / present.sum(1, keepdim=True)

    def _mean_of_all(self, inputs: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """The mean of a text's windows, by operations whose shapes depend on no value.

        The windows that a text lacks are encoded too, with one token so that attention has one.
        """
        mask = inputs["attention_mask"]  # all inputs have its shape, as torch.export learns here
        flat = {name: value.expand_as(mask).flatten(0, 1) for name, value in inputs.items()}
        first = torch.arange(mask.shape[2], device=mask.device) == 0
        flat["attention_mask"] = (mask | first).flatten(0, 1)
        vectors = self._vectors(flat)
        texts = torch.arange(mask.shape[0], device=mask.device).unsqueeze(1)
        own = texts == texts.expand_as(present).flatten()  # (N, N x K)
        share = (own & present.flatten()).to(vectors.dtype)
        return share @ vectors / share.sum(1, keepdim=True)

    def _vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        tokens = hidden_states(self.encoder(**inputs))
        mask = inputs["attention_mask"]
        if self.pooling == "cls":
            return tokens[:, 0]
        if self.pooling == "last":
            return tokens[torch.arange(tokens.shape[0], device=tokens.device), mask.sum(1) - 1]
        weights = mask.unsqueeze(-1).to(tokens.dtype)
        return (tokens * weights).sum(1) / weights.sum(1)

    def extra_repr(self) -> str:
        return f"pooling={self.pooling!r}"


def checked_pooling(pooling: object) -> str:
    if pooling not in POOLINGS:
        raise ModelError(
            f"pooling={pooling!r}: expected "
            '"mean" of all tokens, "cls" (the first token) or "last", or None for what the '
            "model was trained with."
        )
    return str(pooling)


def hidden_states(outputs: Any) -> Tensor:
    """The last hidden states (N, L, F) of an encoder's outputs."""
    found = getattr(outputs, "last_hidden_state", None)
    if found is None and isinstance(outputs, tuple) and outputs:
        found = outputs[0]
    if not isinstance(found, Tensor) or found.ndim != 3:
        raise ModelError(
            f"The model gives a {type(outputs).__name__} without hidden states of the tokens "
            "(N, L, F). Use a text encoder, such as "
            '"sentence-transformers/all-MiniLM-L6-v2".'
        )
    return found


def load_text_encoder(
    source: str | os.PathLike[str], *, pretrained: bool = True, pooling: str | None = None
) -> tuple[TextEncoder, str]:
    """Load an encoder of transformers, without its pooler and its output layers.

    Args:
        source: a name on the hub, such as "bert-base-uncased", or a local folder.
        pretrained: False for random weights.
        pooling: see `TextEncoder`; None for what the model was trained with.

    Returns:
        The encoder, and why it pools as it does.

    Raises:
        UnknownArchitectureError: there is no such model, or it needs code of its own.
        WeightsError: the weights cannot be loaded.
    """
    from transformers import AutoConfig, AutoModel

    name = os.fspath(source)
    with _reading(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    missing: set[str] = set()
    if pretrained:
        with _reading(name), _quiet():
            model, info = AutoModel.from_pretrained(
                name, config=config, trust_remote_code=False, output_loading_info=True
            )
        missing = set(info["missing_keys"])
    else:
        model = AutoModel.from_config(config, trust_remote_code=False)
    pooler = getattr(model, "pooler", None) is not None and not any("pooler." in n for n in missing)
    encoder = _encoder_of(model)
    lost = sorted(missing & {n for n, _ in encoder.named_parameters()})
    if lost:
        raise WeightsError(
            f"{name} has no weights for {len(lost)} parameters of its encoder, such as {lost[0]}. "
            "The file is of a different model, or only part of one."
        )
    how, reason = (pooling, "as given") if pooling else _pooling_of(name, encoder, pooler)
    return TextEncoder(encoder, how), reason


def check_tokens(body: TextEncoder, source: object, length: int, highest: int) -> None:
    """Refuse texts of more tokens than the model has positions, or tokens that it does not know.

    Raises:
        ModelError: the tokenizer does not fit.
    """
    encoder: Any = body.encoder
    words = encoder.get_input_embeddings()
    known = words.weight.shape[0]
    if highest >= known:
        raise ModelError(
            f"The tokenizer of {source} has token {highest}, but its model has "
            f"{known} tokens. Give a folder whose tokenizer and weights fit."
        )
    try:
        positions = int(getattr(encoder.config, "max_position_embeddings", 0) or 0)
    except NotImplementedError:
        return
    for table in encoder.modules():  # I-BERT's tables are no nn.Embedding
        padding, weight = getattr(table, "padding_idx", None), getattr(table, "weight", None)
        if table is words or padding is None or weight is None:
            continue
        if weight.shape[0] == positions:  # in RoBERTa, positions begin after that of padding
            limit = positions - padding - 1
            if length > limit:
                raise ModelError(
                    f"{source} takes {limit} tokens at most, but max_length is {length}. Give "
                    f"TextDataLoaders.from_table(..., max_length={limit})."
                )


def measured_features(body: TextEncoder, inputs: Mapping[str, Tensor]) -> int:
    """Length of a text's vector, by a trial with a batch of two texts or more; changes nothing.

    A log line warns if padding changes the vectors.
    """
    tokens = inputs["attention_mask"].sum(-1)  # (N,), or (N, K) for windows
    length = tokens if tokens.ndim == 1 else tokens.amax(1)
    row = int(length.argmin())
    alone = {name: value[row : row + 1, ..., : int(length[row])] for name, value in inputs.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), eval_mode(body):
        padded, plain = body(**inputs)[row], body(**alone)[0]
    apart = float((padded - plain).norm() / plain.norm())
    if apart > _ROUNDING:
        _LOG.warning(
            "%s: in a trial the vector of a text changes by %.1f%% if the text is padded, so its "
            "prediction depends on the other texts of its batch. The model reads no attention "
            "mask, or it draws random numbers. Most other encoders give the same vector, such as "
            '"sentence-transformers/all-MiniLM-L6-v2".',
            type(body.encoder).__name__, 100 * apart,
        )  # fmt: skip
    return int(plain.shape[0])


def build_text_encoder(config: Mapping[str, Any], pooling: str) -> TextEncoder:
    """An encoder with initial weights, from its config as plain data; no file is read."""
    from transformers import AutoConfig, AutoModel

    entries = {name: value for name, value in config.items() if name not in _NOT_BUILT}
    try:
        made = AutoConfig.for_model(str(entries.pop("model_type")), **entries)
        model = AutoModel.from_config(made, trust_remote_code=False)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, ImportError) as cause:
        raise ModelError(f"The config of the encoder cannot be used: {cause}") from cause
    return TextEncoder(_encoder_of(model), pooling)


def describe_text_encoder(body: TextEncoder) -> dict[str, Any]:
    """What `build_text_encoder` needs, JSON-ready."""
    config: Any = body.encoder.config
    entries = json.loads(config.to_json_string(use_diff=True))
    entries["model_type"] = config.model_type
    built = {name: value for name, value in entries.items() if name not in _NOT_BUILT}
    return {"config": built, "pooling": body.pooling}


def _encoder_of(model: Any) -> nn.Module:
    """The encoder in float32, without a pooler: the head does its work."""
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None
        if _calls_none(model):
            model.pooler = NoPooler()
    encoder: nn.Module = model.float().eval()
    return encoder


def _calls_none(encoder: nn.Module) -> bool:
    """Whether a trial ends because a module that is None is called; changes nothing."""
    ids = torch.tensor([[1, 2, 3, 4]])
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), eval_mode(encoder):
            encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
    except TypeError as error:
        return "'NoneType' object is not callable" in str(error)
    except Exception:  # of any class; with real texts it comes again, or does not
        return False
    return False


def _pooling_of(name: str, encoder: nn.Module, pooler: bool) -> tuple[str, str]:
    """How the model was trained to give one vector for a text, and how that is known."""
    stated = _stated_pooling(name)
    if stated:
        return stated, "its 1_Pooling/config.json says so"
    if is_causal(encoder):
        return "last", "each token sees only those before it, so the last one has read the text"
    if pooler:
        return "cls", "it has a pretrained pooler, which reads the first token"
    return "mean", "no token of it was trained to stand for the text"


def _stated_pooling(name: str) -> str | None:
    """What the pooling file of sentence-transformers says, if there is one."""
    file = Path(name) / "1_Pooling" / "config.json"
    if not Path(name).is_dir():
        from transformers.utils import cached_file

        found = cached_file(
            name, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False, _raise_exceptions_for_gated_repo=False,
        )  # fmt: skip
        file = Path(found) if found else file
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = settings if isinstance(settings, dict) else {}
    return next((how for entry, how in _STATED.items() if known.get(entry) is True), None)


def is_causal(encoder: nn.Module) -> bool:
    """Whether a trial shows that a token sees only those before it; changes nothing."""
    device = next(encoder.parameters()).device
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=device)
    with torch.no_grad(), eval_mode(encoder):
        tokens = hidden_states(encoder(input_ids=ids, attention_mask=torch.ones_like(ids)))
    same = torch.allclose(tokens[0, :3], tokens[1, :3], rtol=1e-5, atol=1e-6)
    return same and not torch.allclose(tokens[0, 3], tokens[1, 3], rtol=1e-5, atol=1e-6)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Translate the errors of transformers for a name or a folder."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as cause:
        first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        if "trust_remote_code" in str(cause):
            raise UnknownArchitectureError(
                f"{name} needs code of its own from the hub, which is never run. Use a model whose "
                "class is part of transformers."
            ) from cause
        raise UnknownArchitectureError(
            f"No text model can be loaded from {name!r}: {first} Give a name on the hub, such as "
            '"sentence-transformers/all-MiniLM-L6-v2", or a folder with config.json, weights and '
            "tokenizer."
        ) from cause


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars, and no report of layers that are left out; those that lack raise an error."""
    from transformers.utils import logging as notes

    shown, level = notes.is_progress_bar_enabled(), notes.get_verbosity()
    notes.disable_progress_bar()
    notes.set_verbosity_error()
    try:
        yield
    finally:
        notes.set_verbosity(level)
        if shown:
            notes.enable_progress_bar()
