"""What batched attention brings to a vision tower: calls of attention in a pass, and seconds.

    OMP_NUM_THREADS=1 python -m benchmarks.vision                 # a CPU, float32
    python -m benchmarks.vision --device cuda --dtype bfloat16    # a GPU

The tower is that of Qwen2.5-VL-7B (https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct/blob/main/config.json), with
random weights and fewer layers: three with windows for each that sees the whole image, or seven as in the model with
`--layers 8`. Passes forward and backward alternate between transformers' own attention and ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

import torch
from torch.nn import functional
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from pxr_agents import attention

PATCH = 14
WAYS = ("sdpa", attention.BATCHED)


class Tower:
    """The tower and an image of noise.

    Args:
        layers: how many; the last one sees the whole image.
        width, height: of the image in pixels, rounded down to whole tokens.
    """

    def __init__(self, layers: int, width: int, height: int, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        config = Qwen2_5_VLVisionConfig(
            depth=layers,
            hidden_size=1280,
            intermediate_size=3420,
            num_heads=16,
            out_hidden_size=3584,
            window_size=112,
            fullatt_block_indexes=[layers - 1],
        )
        self.model = Qwen2_5_VisionTransformerPretrainedModel(config).to(device, dtype)
        down, across = height // (2 * PATCH) * 2, width // (2 * PATCH) * 2
        self.grid = torch.tensor([[1, down, across]], device=device)
        self.patches = torch.randn(down * across, 3 * 2 * PATCH**2, device=device, dtype=dtype)

    def forward(self, way: str) -> torch.Tensor:
        self.model.config._attn_implementation = way
        return self.model(self.patches, grid_thw=self.grid).pooler_output

    def seconds(self, way: str) -> float:
        """Of a pass forward and backward: processor time on a CPU, wall time on a GPU."""
        on_gpu = self.patches.is_cuda
        clock = time.perf_counter if on_gpu else time.process_time
        start = clock()
        self.forward(way).float().square().mean().backward()
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start

    def calls(self, way: str) -> int:
        """Calls of attention in a pass forward."""
        with (
            mock.patch.object(
                functional, "scaled_dot_product_attention", wraps=functional.scaled_dot_product_attention
            ) as theirs,
            mock.patch.object(
                attention, "scaled_dot_product_attention", wraps=attention.scaled_dot_product_attention
            ) as ours,
            mock.patch.object(attention, "varlen_attn", wraps=attention.varlen_attn) as varlen,
            torch.no_grad(),
        ):
            self.forward(way)
        return theirs.call_count + ours.call_count + varlen.call_count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(1624, 1232), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    args = parser.parse_args()
    tower = Tower(args.layers, *args.size, args.device, getattr(torch, args.dtype))
    with torch.no_grad():
        one, other = (tower.forward(way).float() for way in WAYS)
    print(f"{args.size[0]} x {args.size[1]} pixels, {len(one)} vision tokens, {args.layers} layers, {args.dtype}")
    print(f"largest difference {float((one - other).abs().max()):.1e}, of numbers up to {float(one.abs().max()):.1f}")
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for k in range(args.passes + 1):
        for way in WAYS[:: 1 if k % 2 else -1]:
            seconds = tower.seconds(way)
            if k:
                spent[way].append(seconds)
    for way in WAYS:
        print(
            f"{way:<16}{tower.calls(way):>6} calls  {statistics.median(spent[way]):.3f} s a pass forward and backward"
        )
    ratios = [a / b for a, b in zip(*(spent[way] for way in WAYS), strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
