"""A few tensors, and every way to write them into a file."""

import pickle

import safetensors.torch
import torch


def small():
    generator = torch.Generator().manual_seed(1)
    return {
        "conv1.weight": torch.randn(3, 2, 3, 3, generator=generator),
        "bn1.num_batches_tracked": torch.tensor(7),
    }


def assert_same(read, expected):
    assert list(read) == list(expected)
    for key in expected:
        assert read[key].dtype == expected[key].dtype
        assert torch.equal(read[key], expected[key])


def arrays(tensors):
    return {key: tensor.numpy() for key, tensor in tensors.items()}


def write_old(tensors, path):
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


CONTAINERS = {
    "torch": torch.save,
    "torch, protocol 4": lambda tensors, path: torch.save(tensors, path, pickle_protocol=4),
    "old torch": write_old,
    "old torch, protocol 4": lambda tensors, path: torch.save(
        tensors, path, _use_new_zipfile_serialization=False, pickle_protocol=4
    ),
    "safetensors": safetensors.torch.save_file,
    **{
        f"pickle {protocol}": lambda tensors, path, protocol=protocol: path.write_bytes(
            pickle.dumps(arrays(tensors), protocol)
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "pickle of tensors": lambda tensors, path: path.write_bytes(pickle.dumps(tensors)),
    "pickle of tensors 0": lambda tensors, path: path.write_bytes(pickle.dumps(tensors, 0)),
}
