"""Checkpoint files: safetensors whose header has the JSON state and a manifest.

Writes are atomic: a killed run leaves the old file or the new one. Nothing is pickled, so an
untrusted file cannot run code. A fit writes a series of such files and resumes from the newest
readable one.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from layergroups.errors import CheckpointError

FORMAT: Final = "layergroups"
VERSION: Final = 2
_log = logging.getLogger("layergroups")


def write(path: str | Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write tensors, on any device, and a JSON state to one file, atomically.

    Missing folders are created. Tensors that share memory under several names (tied weights) are
    stored once.
    """
    stored, aliases = _without_aliases(tensors)
    header = _header(stored, aliases, state)
    return atomic_write(path, lambda part: save_file(stored, part, metadata=header))


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors by name, on the CPU, and the state of a file of `write`.

    Raises:
        CheckpointError: the file is missing, foreign, of a newer format, truncated or altered.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}{_beside(path)}.")
    try:
        with safe_open(path, framework="pt") as opened:
            header = dict(opened.metadata() or {})
            names = opened.keys()  # `opened` is not a dict: iterating over it fails
            stored = {name: opened.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValueError) as cause:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({cause}). Load an older copy, or save "
            "it again."
        ) from cause
    manifest, state = _checked_header(path, header)
    _check_tensors(path, stored, manifest["tensors"])
    return stored | {name: stored[first] for name, first in manifest["aliases"].items()}, state


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file atomically; missing folders are created."""
    # What is not UTF-8 in a name becomes an escape, which JSON reads back as the same name.
    content = text.encode("utf-8", "backslashreplace")
    return atomic_write(path, lambda part: Path(part).write_bytes(content))


def atomic_write(path: str | Path, write_to: Callable[[str], object]) -> Path:
    """Let a function write a temporary file beside the target, then rename it."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Created here, so that the system applies the umask. Reading the umask means setting it,
        # which would briefly make the files of other threads accessible to everybody.
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            mode = part.stat().st_mode
            write_to(str(part))
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.chmod(mode)  # safetensors replaces the file by one that only the owner can read
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        if os.name == "posix":  # make the rename durable, where folders can be opened
            handle = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    except (OSError, SafetensorError) as cause:
        raise CheckpointError(f"Could not write {path}: {cause}") from cause
    return path


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read: its file, its tensors by name on the CPU, its JSON state."""

    path: Path
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """The checkpoints of one fit: `step-00000012.safetensors` and so on, in a separate folder."""

    folder: Path

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)

    def write(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step atomically; it replaces an earlier one of that step."""
        return write(self.folder / f"step-{step:08d}.safetensors", tensors, state)

    def prune(self, keep: Collection[Path]) -> None:
        """Delete all other files, and the temporary files of killed writers."""
        temporary = (*self.folder.glob(".step-*.part"), *self.folder.glob(f".tmp{'?' * 6}"))
        for path in (*self.files(), *temporary):  # the second kind is that of safetensors
            if path not in keep:
                path.unlink(missing_ok=True)

    def readable(self) -> Iterator[Saved]:
        """Yield the checkpoints that can be read, newest first; fails if all are damaged."""
        reasons = []
        files = self.files()
        for path in files:
            try:
                tensors, state = read(path)
            except CheckpointError as damage:
                reasons.append(str(damage))
                if len(reasons) < len(files):
                    _log.warning("%s Using the previous checkpoint instead.", damage)
                continue
            yield Saved(path, tensors, state)
        if files and len(reasons) == len(files):
            listed = "\n".join(f"  {reason}" for reason in reasons)
            raise CheckpointError(
                f"No checkpoint in {self.folder} can be read:\n{listed}\nDelete the folder to "
                "restart this fit."
            )


def _without_aliases(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Contiguous CPU tensors that share no memory, and the names that are aliases of others."""
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_name: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        view = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and view in first_name:
            aliases[name] = first_name[view]
            continue
        first_name[view] = name
        plain = tensor.detach().to("cpu").contiguous()
        if plain.untyped_storage().data_ptr() in storages:
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        stored[name] = plain
    return stored, aliases


def _header(
    stored: Mapping[str, Tensor], aliases: Mapping[str, str], state: Mapping[str, Any]
) -> dict[str, str]:
    try:
        state_text = json.dumps(state)
    except (TypeError, ValueError) as cause:
        raise CheckpointError(f"The state cannot be written as JSON: {cause}") from cause
    manifest = json.dumps(
        {
            "tensors": {name: _fingerprint(tensor) for name, tensor in stored.items()},
            "aliases": dict(aliases),
            "state": zlib.crc32(state_text.encode()),
        }
    )
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "state": state_text,
        "manifest": manifest,
        "checksum": str(zlib.crc32(manifest.encode())),
    }


def _fingerprint(tensor: Tensor) -> list[Any]:
    content = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0)
    return [str(tensor.dtype), list(tensor.shape), zlib.crc32(content.numpy().data)]


def _checked_header(path: Path, header: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but not of learn.save. To start from plain weights, "
            f'use vision_learner(dls, arch, weights="{path}").'
        )
    if header.get("version") != str(VERSION):
        raise CheckpointError(
            f"{path} has format version {header.get('version')}; this release reads version "
            f"{VERSION}. Use the release of layergroups that wrote it."
        )
    try:
        if str(zlib.crc32(header["manifest"].encode())) != header["checksum"]:
            raise ValueError("its manifest does not match its checksum")
        manifest: dict[str, Any] = json.loads(header["manifest"])
        if zlib.crc32(header["state"].encode()) != manifest["state"]:
            raise ValueError("its state does not match the manifest")
        state: dict[str, Any] = json.loads(header["state"])
        return {"tensors": dict(manifest["tensors"]), "aliases": dict(manifest["aliases"])}, state
    except (KeyError, TypeError, ValueError, RecursionError) as cause:
        raise CheckpointError(f"The header of {path} is damaged: {cause!r}.") from cause


def _check_tensors(path: Path, stored: Mapping[str, Tensor], listed: Mapping[str, Any]) -> None:
    if stored.keys() != listed.keys():
        differing = sorted(stored.keys() ^ listed.keys())
        raise CheckpointError(f"{path} differs from its manifest: {differing[:5]}.")
    for name, tensor in stored.items():
        if _fingerprint(tensor) != listed[name]:
            raise CheckpointError(
                f"{path} is damaged: {name} does not match its manifest. Load an older copy."
            )


def _beside(path: Path) -> str:
    names = sorted(found.stem for found in path.parent.glob("*.safetensors"))
    return f"; beside it: {', '.join(names[:8])}" if names else ""
