"""Learners on a model hub: safetensors, JSON and a model card, through huggingface_hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from layergroups._formatting import rate
from layergroups.errors import CheckpointError
from layergroups.reports import RunRecord

_FILES = ("*.json", "*.safetensors")  # nothing that runs code
_T = TypeVar("_T")


def push(
    export: Callable[[Path], object],
    record: RunRecord,
    repo: str,
    *,
    license: str,
    private: bool,
    token: str | None,
) -> str:
    """Upload an export and its card, no items of the data; returns the address of the commit."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made, "export")
        export(folder)
        (folder / "README.md").write_text(model_card(record, repo, license), encoding="utf-8")

        def upload() -> str:
            api = HfApi(token=token)
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo, folder_path=folder, allow_patterns=[*_FILES, "README.md"],
                commit_message="A learner of layergroups",
            )  # fmt: skip
            return str(done.commit_url)

        return _reached(upload, f'learn.push_to_hub("{repo}")')


def fetched(address: str) -> Path:
    """The folder of `hf://user/model` or `hf://user/model@revision`, from the hub or the cache."""
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?", address)
    if found is None:
        raise CheckpointError(
            f'{address!r} is not the address of a model; load_learner("hf://user/model"), or '
            '"hf://user/model@revision"'
        )
    repo, revision = found.groups()
    call = f'load_learner("{address}")'
    return Path(
        _reached(lambda: snapshot_download(repo, revision=revision, allow_patterns=[*_FILES]), call)
    )


def _reached(request: Callable[[], _T], call: str) -> _T:
    try:
        return request()
    except Exception as cause:  # of the HTTP client, which differs between versions of the hub's
        if isinstance(cause, HFValidationError):
            raise CheckpointError(f"{call}: {cause}") from cause
        if isinstance(cause, HfHubHTTPError) and not isinstance(cause, LocalEntryNotFoundError):
            raise CheckpointError(
                f"{call}: the hub refused it ({str(cause).strip().splitlines()[0]}). The name must "
                "be user/model; private models and uploads need a token: `hf auth login`"
            ) from cause
        raise CheckpointError(
            f"{call}: no model hub can be reached ({type(cause).__name__}). Check the network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE, or use learn.export(folder) and load_learner(folder)"
        ) from cause


# -- the card ------------------------------------------------------------------------------------


def model_card(record: RunRecord, repo: str, license: str) -> str:
    """A model card in Markdown, written from the record of a run."""
    outcome, setup, network = record.outcome, record.setup, record.network
    head: dict[str, Any] = {"library_name": "layergroups", "license": license}
    head["tags"] = ["layergroups", "transfer-learning"]
    if outcome is not None:
        head["metrics"] = list(outcome.figures)
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", f"# {repo}", ""]
    lines += [f"{network.name}, {network.parameters:,} parameters, trained by layer groups.", ""]
    lines += ["## Use", "", "```python", "from layergroups import load_learner", ""]
    lines += [f'learn = load_learner("hf://{repo}")', 'learn.predict("item.jpg")', "```", ""]
    if outcome is not None:
        lines += ["## Results", "", f"On {outcome.items:,} validation items ({outcome.task})."]
        lines += ["", *_table(("metric", "value"), _figures(outcome.figures, outcome.loss)), ""]
        if outcome.classes:
            lines += [f"Classes: {', '.join(outcome.classes)}.", ""]
        if pairs := outcome.confusions[:10]:
            confused = [(pair.actual, pair.predicted, str(pair.count)) for pair in pairs]
            lines += ["Most frequent confusions:", ""]
            lines += [*_table(("actual", "predicted", "items"), confused), ""]
    data = record.data
    lines += [
        "## Data",
        "",
        f"{data.train or 0:,} training and {data.valid or 0:,} validation items.",
    ]
    if data.counts:
        counts = [(name, f"{train:,}", f"{valid:,}") for name, train, valid in data.counts]
        lines += ["", *_table(("class", "training", "validation"), counts)]
    rows = [
        (g.name, f"{g.parameters:,}", "frozen" if g.frozen else rate(g.rate), g.reason)
        for g in network.groups
    ]
    lines += ["", "## Layer groups", "", f"Rule: {network.rule}.", ""]
    lines += [*_table(("group", "parameters", "learning rate at the end", "begins at"), rows), ""]
    lines += ["## Reproduce", "", f"{len(record.epochs)} epochs.", ""]
    if setup.command:
        lines += ["```", setup.command, "```", ""]
    facts = {**setup.settings, **setup.versions}
    lines += [*_table(("setting", "value"), [(k, str(v)) for k, v in facts.items()]), ""]
    return "\n".join([*lines, f"License: {license}. Written from the record of the run.", ""])


def _figures(figures: Any, loss: float | None) -> list[tuple[str, str]]:
    known = dict(figures) | ({} if loss is None else {"loss": loss})
    return [(name, f"{value:.4g}") for name, value in known.items()]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    written = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *written)]
