"""What ONNX Runtime allocates for the activations of a network on this machine.

The runtime plans one block of memory for all of them after the first run, where there is anything
to plan. Its log names what is allocated; an arena that grows by what is asked for and no more makes
the log exact. An arena belongs to a whole process, so the network runs in one of its own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from ..factory.errors import DeviceError
from ..factory.graph.network import network_from_model
from ..factory.units import MIB

_LIMIT_S = 120
_MARK = "second run"
_PROBE = f"""
import sys
import numpy as np
import onnxruntime as ort

ort.set_default_logger_severity(1)
ort.create_and_register_allocator(
    ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT),
    ort.OrtArenaCfg({{"arena_extend_strategy": 1, "initial_chunk_size_bytes": 1,
                     "initial_growth_chunk_size_bytes": 1, "max_dead_bytes_per_chunk": 1}}),
)
options = ort.SessionOptions()
options.add_session_config_entry("session.use_env_allocators", "1")
options.intra_op_num_threads = 1
options.log_severity_level = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {{put.name: np.zeros(put.shape, np.float32) for put in session.get_inputs()}}
session.run(None, feeds)
print({_MARK!r}, file=sys.stderr, flush=True)
session.run(None, feeds)
"""


def allocated_mib(model: bytes) -> float:
    """MiB of a network's weights and of what ONNX Runtime allocates for the activations of one run.

    Raises:
        DeviceError: See :func:`allocated_activation_bytes`.
    """
    network = network_from_model(onnx.load_from_string(model))
    weights = sum(array.nbytes for array in network.weights.values())
    return (weights + allocated_activation_bytes(model)) / MIB


def allocated_activation_bytes(model: bytes) -> int:
    """Bytes that ONNX Runtime's CPU provider holds for the activations of one run.

    Args:
        model: An ONNX file with float32 inputs of fixed shapes.

    Raises:
        DeviceError: The network does not run, or this ONNX Runtime does not say.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        try:
            ran = subprocess.run(
                [sys.executable, "-c", _PROBE, str(path)], capture_output=True, text=True,
                timeout=_LIMIT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"The network did not run twice within {_LIMIT_S} s.") from error
    before, mark, after = ran.stderr.partition(_MARK)
    first, second = (
        sum(int(size) for size in re.findall(r"Extended allocation by (\d+) bytes", text))
        for text in (before, after)
    )
    if ran.returncode or not mark or not max(first, second):
        raise DeviceError(
            "ONNX Runtime did not say what it allocates.",
            hints=[line for line in ran.stderr.splitlines()[-1:] if ran.returncode],
        )
    return max(first, second)
