"""Detects the format of a file by its content rather than by its extension."""

from __future__ import annotations

import functools
import os
import pickle
import re
import tarfile
import zipfile

import torch

EXPECTED = "expected a state dict, as torch.save, safetensors or a pickle of NumPy arrays has it"
TORCH, OLD_TORCH, SAFETENSORS, PICKLE = "torch", "old torch", "safetensors", "pickle"
HEAD = 1024  # number of bytes
LONGEST_HEADER = 100_000_000  # number of bytes; safetensors' own limit

EXPORT_FIRST = "load it where it was made, and save the state dict of its model with torch.save"
UNPACK = "unpack it, and give the file in it"
DOWNLOAD = "download the file itself"
# First bytes of files of other kinds, what they are, and how to get weights from them
STARTS = (
    (rb"version https://git-lfs", "a pointer of Git LFS", "`git lfs pull` brings the file itself"),
    (rb"(?i)\s*(<!doctype html|<html|<head|<!--)", "an HTML page", DOWNLOAD),
    (rb"(?i)\s*<", "an XML text, such as a server's error", DOWNLOAD),
    (rb"\s*[{\[]\s*[\"{}\[\]]", "a JSON text, such as a server's error", DOWNLOAD),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras's .h5", EXPORT_FIRST),
    (rb"(?s).{4}TFL3", "a TensorFlow Lite model", EXPORT_FIRST),
    (rb"\x08\x01\x12", "a SavedModel of TensorFlow", EXPORT_FIRST),
    (rb"(?s)\x08[\x02-\x20][\x12\x1a\x22\x3a\x42]", "an ONNX model", EXPORT_FIRST),
    (rb"model_checkpoint_path:", "the index of TensorFlow's checkpoints", EXPORT_FIRST),
    (rb"GGUF", "a GGUF model", EXPORT_FIRST),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "a compressed archive", UNPACK),
    (rb"\x93NUMPY", "a single NumPy array", EXPORT_FIRST),
)
# The number at the start of torch.save's old format, in all pickle protocols
OLD_TORCH_STARTS = (
    pickle.dumps(torch.serialization.MAGIC_NUMBER, 2)[2:],
    str(torch.serialization.MAGIC_NUMBER).encode(),
)
TABLE_END = bytes.fromhex("57fb808b247547db")  # end of a LevelDB table
# The same for patterns of file names inside a zip archive
ENTRIES = (
    (
        r"[^/]+/constants\.pkl",
        "a TorchScript model",
        "save its state dict: torch.save(torch.jit.load({path!r}).state_dict(), 'weights.pth')",
    ),
    (
        r"([^/]+/)?(models/model\.json|serialized_exported_program\.json)",
        "a model of torch.export",
        "save its state dict: torch.save(torch.export.load({path!r}).state_dict, 'weights.pth')",
    ),
    (r"[^/]+/\.data/extern_modules", "a package of torch.package", EXPORT_FIRST),
    (r"model\.weights\.h5", "a Keras model", EXPORT_FIRST),
    (r"saved_model\.pb|.+/saved_model\.pb", "a SavedModel of TensorFlow", EXPORT_FIRST),
    (r"[^/]+\.npy", "an archive of NumPy arrays (.npz)", EXPORT_FIRST),
)


def tell_format(path: str, name: str = "") -> str:
    """Detect the format of a file.

    Args:
        path: a local file.
        name: name of the file in error messages, if it is not the path.

    Returns:
        :data:`TORCH` (torch.save's zip format), :data:`OLD_TORCH` (the one before PyTorch 1.6),
        :data:`SAFETENSORS`, or :data:`PICKLE` for anything that is not another known format.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, or is a damaged one of torch.save. The message says
            what it is, and what is expected.
    """
    name = name or path
    if os.path.isdir(path):
        raise _refused(name, *_tell_folder(path))
    if not os.path.isfile(path):
        if os.path.isfile(f"{path}.index"):
            raise _refused(name, "a checkpoint of TensorFlow", EXPORT_FIRST)
        raise FileNotFoundError(f"there is no file {name}")
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(HEAD)
        file.seek(max(size - 8, 0))
        tail = file.read()
    if not head.strip(b"\0"):
        raise _refused(name, "empty" if not size else "nothing but zeros", DOWNLOAD)
    if head.startswith(b"PK"):
        return _tell_zip(path, name)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER:
        return SAFETENSORS
    for start, what, advice in STARTS:
        if re.match(start, head):
            raise _refused(name, what, advice)
    if tail == TABLE_END:
        raise _refused(name, "a checkpoint of TensorFlow", EXPORT_FIRST)
    if any(start in head[:40] for start in OLD_TORCH_STARTS):
        return OLD_TORCH
    if tarfile.is_tarfile(path):
        raise _refused(name, "a tar archive", UNPACK)
    return PICKLE


def _tell_zip(path: str, name: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
    except zipfile.BadZipFile:
        raise ValueError(f"{name} is cut off: it begins as a zip archive, and has no end") from None
    except (NotImplementedError, ValueError) as error:
        raise ValueError(f"{name} is damaged: {error}") from None
    for pattern, what, advice in ENTRIES:
        if any(re.fullmatch(pattern, entry) for entry in entries):
            raise _refused(name, what, advice.format(path=name))
    if any(re.fullmatch(r"[^/]+/data\.pkl", entry) for entry in entries):
        status = os.stat(path)
        if damage := _find_damage(path, status.st_size, status.st_mtime_ns):
            raise ValueError(f"{name} is damaged: {damage}")
        return TORCH
    shown = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
    raise _refused(name, f"a zip archive of other files ({shown or 'none'})", UNPACK)


@functools.lru_cache(maxsize=32)
def _find_damage(path: str, size: int, modified: int) -> str:
    """Describe the damage of a file of torch.save. Empty if there is none, or no checksums.

    The file has a CRC-32 for each of its parts, which torch.load does not verify. The result is
    cached as long as the file does not change.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unchecked = not any(entry.CRC for entry in archive.infolist())
            part = None if unchecked else archive.testzip()
    except Exception as error:  # damaged bytes may raise anything
        return str(error) or type(error).__name__
    return f"the checksum of {part} is another" if part else ""


def _tell_folder(path: str) -> tuple[str, str]:
    if os.path.isfile(os.path.join(path, "saved_model.pb")):
        return "a SavedModel of TensorFlow", EXPORT_FIRST
    return "a folder", "give the file in it"


def _refused(name: str, what: str, advice: str) -> ValueError:
    return ValueError(f"{name} is {what}; {EXPECTED}: {advice}")
