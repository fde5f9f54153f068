"""Checkpoints: nested dictionaries and lists of tensors, numbers and strings in one safetensors file.

The tensors are stored as such, the rest as JSON in the file's metadata. Nothing is pickled: a checkpoint can
hold no code.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from dgmbench.files import write_bytes

_TENSOR = "__tensor__"
_KEYED = "__items__"


def save(path: Path, tree: dict[str, Any]) -> None:
    """Write `tree` atomically. Keys may be strings or integers; leaves tensors, numbers, strings, bools, None."""
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _pack(tree, tensors)
    # Not safetensors' own writing to a file: it gives a full disk as an error of its own instead of an OSError.
    write_bytes(path, serialize(tensors, metadata={"tree": json.dumps(skeleton)}))


def load(path: Path) -> dict[str, Any] | None:
    """The tree that was saved, or None where the file is damaged: a run then starts again from its beginning."""
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
        return _unpack(json.loads(metadata["tree"]), tensors)
    except (SafetensorError, KeyError, ValueError):
        return None


def _pack(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, torch.Tensor):
        name = f"t{len(tensors)}"
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = node.detach().to("cpu", copy=True).contiguous()
        return {_TENSOR: name, "device": str(node.device)}
    if isinstance(node, dict):
        return {_KEYED: [[key, _pack(value, tensors)] for key, value in node.items()]}
    if isinstance(node, (list, tuple)):
        return [_pack(item, tensors) for item in node]
    if node is None or isinstance(node, (bool, int, float, str)):
        return node
    raise TypeError(f"a checkpoint cannot hold a {type(node).__name__}: use tensors, numbers or strings")


def _unpack(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(node, dict) and _TENSOR in node:
        return tensors[node[_TENSOR]].to(node["device"])
    if isinstance(node, dict):
        return {key: _unpack(value, tensors) for key, value in node[_KEYED]}
    if isinstance(node, list):
        return [_unpack(item, tensors) for item in node]
    return node
