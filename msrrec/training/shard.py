"""FSDP2: each worker keeps a share of every layer's frozen weights and borrows the rest in time.

LoRA matrices, embeddings and the vocabulary projection stay whole on every worker, so gradients,
optimizer and checkpoints are those of DDP, to the bit.
"""

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from msrrec.errors import ModelError


def shard_layers(base: Any, device: torch.device, world_size: int) -> None:
    """Spread the frozen weights of a transformers model's layers over all workers.

    Layer by layer, each is put on the device and cut, so none of them needs room for all.

    Args:
        base: Inside the PEFT model, still on the CPU where it does not fit the device.
        device: Of this worker.
        world_size: Workers, more than one.

    Raises:
        ModelError: If the model has no layers of transformers' own kind.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in base.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"{type(base).__name__}: found no layers to shard; expected those of a transformers "
            "decoder; set train.strategy=ddp"
        )
    mesh = init_device_mesh(device.type, (world_size,))
    lora = {weight for weight in base.parameters() if weight.requires_grad}
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=lora)
    decoder = base.get_decoder()  # holds them together, so that each fetches the next one's weights
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()))
