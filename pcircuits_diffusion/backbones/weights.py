"""From a folder to a module, every weight of which comes from its safetensors files.

Models whose code lies beside their weights are not left to `from_pretrained`: that code was written for one version of
transformers, and the next one's loader expects what it does not have (`post_init`, say). Here it is imported, called
with its configuration, and given its weights.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

import pcircuits as pc
from pcircuits.files import read_safetensors
from pcircuits_diffusion.backbones.files import read_config


def load_native(folder: Path, auto: str, dtype: torch.dtype | None) -> Any:
    """A model of transformers' own, by its class `auto`.

    Raises:
        pc.FormatError: files that are missing, broken, or lack weights.
    """
    import transformers

    require_safetensors(folder)
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if (model_class := getattr(transformers, auto, None)) is None:
        raise pc.FormatError(f"transformers {transformers.__version__} has no {auto}; {folder} needs a later one")
    try:
        module, report = model_class.from_pretrained(folder, dtype="auto" if dtype is None else dtype, **options)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise pc.FormatError(f"the model in {folder} cannot be read: {error}") from error
    _require_all(folder, report["missing_keys"])
    return module


def load_with_code(folder: Path, auto: str, dtype: torch.dtype | None, changes: Mapping[str, Any]) -> Any:
    """A model whose `config.json` names its Python class under `auto_map`; `changes` of its configuration come first.

    Raises:
        pc.FormatError: files that are missing, broken, or lack weights; code that fails.
    """
    import transformers
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    shards = require_safetensors(folder)
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=True, local_files_only=True, **changes
        )
        model_class = get_class_from_dynamic_module(config.auto_map[auto], folder, local_files_only=True)
        with _default_dtype(dtype or getattr(config, "dtype", None) or torch.float32):
            module = model_class(config)
    except Exception as error:  # whatever foreign code raises
        written_by = read_config(folder).get("transformers_version")
        raise pc.FormatError(
            f"the Python code in {folder} fails under transformers {transformers.__version__} (its configuration was "
            f"written by {written_by}): {error!r}"
        ) from error
    _fill(module, folder, shards)
    return module


def require_safetensors(folder: Path) -> list[Path]:
    """The files with weights."""
    if not (shards := sorted(folder.glob("*.safetensors"))):
        raise pc.FormatError(f"{folder} holds no *.safetensors; weights in pickle files (*.bin, *.pt) are never opened")
    return shards


def _fill(module: nn.Module, folder: Path, shards: list[Path]) -> None:
    own, found = module.state_dict(), set()
    for shard in shards:
        tensors = read_safetensors(shard).tensors
        try:
            module.load_state_dict(tensors, strict=False)
        except RuntimeError as error:
            raise pc.FormatError(f"{shard} does not fit the model: {error}") from error
        found |= {own[name].data_ptr() for name in tensors if name in own}  # tied weights are stored once
    _require_all(folder, (name for name, tensor in own.items() if tensor.data_ptr() not in found))


def _require_all(folder: Path, missing: Any) -> None:
    if names := sorted(missing):
        raise pc.FormatError(f"the files in {folder} lack {len(names)} of the model's weights, such as {names[0]}")


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Parameters made meanwhile have this dtype, so that a large model is never held in a wider one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
