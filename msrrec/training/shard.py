"""FSDP2: each worker holds a part of every layer's frozen weights and fetches the rest in time.

LoRA matrices, embeddings and the vocabulary projection stay whole on every worker, so gradients,
optimizer and checkpoints are bit-identical to those of DDP.
"""

from typing import Any

import torch

from msrrec.errors import ModelError


def shard_layers(base: Any, device: torch.device, world_size: int) -> None:
    """Spread the frozen weights of a transformers model's layers over all workers.

    Layers are moved to the device and split one at a time, so no device needs room for all of them.

    Args:
        base: The model inside the PEFT model, still on the CPU if it does not fit on the device.
        device: Device of this worker.
        world_size: Number of workers, more than one.

    Raises:
        ModelError: If the model has no decoder layers of the transformers library.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # a second to import
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
    decoder = base.get_decoder()  # their parent, so that each layer prefetches the next
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()))
