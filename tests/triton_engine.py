"""Run the mini engine on Triton's interpreter and print its errors as JSON; started by test_mini_engine."""

from __future__ import annotations

import json

import torch

from kvsim.calibration.attention_triton import Tiling, TritonAttention
from kvsim.calibration.backends import Chooser
from kvsim.calibration.fidelity_check import check_engine
from kvsim.calibration.kv_store import KvStore
from kvsim.calibration.mini_engine import MiniEngine
from kvsim.calibration.mini_engine_memory import EngineMemory, layout_of_groups, layout_of_one_table
from kvsim.calibration.mini_engine_weights import Weights
from kvsim.model import Model

CPU = torch.device("cpu")
MODEL = Model(
    name="tiny", layers=2, hidden=32, heads=4, kv_heads=2, head_dim=16, ffn=48, vocab=101,
    max_position_embeddings=64, dtype="fp32", weight_dtype="fp32", windows=(None, 9),
)  # fmt: skip
LAYOUTS = {
    "contiguous": layout_of_one_table(MODEL, "contiguous", 64),
    "paged": layout_of_one_table(MODEL, "paged", 4),
    "windowed": layout_of_groups(MODEL, 4),
}


class Unchecked(Chooser):
    """Take the kernel without its own numeric check, which has a test of its own and is slow in the interpreter."""

    def _verdict(self, *_: object) -> float:
        return 0.0


def main() -> None:
    """Check every layout; decodes and prompts share a launch but for the one that is paged."""
    torch.set_num_threads(1)
    store = KvStore(tokens=400, kv_heads=2, head_size=16, kv_dtype="fp32", device=CPU, seed=0)
    weights = Weights(MODEL, device=CPU, sets=2, seed=0)
    kernel = TritonAttention(multiprocessors=4, tiling=Tiling(16, 16, 4, 1))
    choose = Unchecked(CPU, "triton", known={"triton": kernel})
    errors = {}
    for name, layout in LAYOUTS.items():
        memory = EngineMemory(store, layout)
        engine = MiniEngine(weights, memory, choose, most_positions=64, fuses=name != "paged")
        errors[name] = check_engine(engine, name, 0)
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
