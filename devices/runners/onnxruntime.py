"""ONNX Runtime on the CPU of this machine, for timing and profiling."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import onnxruntime as ort

from ...factory.errors import DataError, DeviceError

PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeRunner:
    """A network opened for timing; the input is one fixed random image.

    Use it as a context manager, or call :meth:`close`.
    """

    def __init__(self, model: bytes, *, threads: int = 1, profile: bool = False) -> None:
        """Open a network.

        Args:
            model: Serialized ONNX with one float32 input of static shape.
            threads: Threads that compute one operator.
            profile: Whether to record the time of every node.

        Raises:
            DataError: ONNX Runtime cannot open the network.
            DeviceError: The CPU provider is missing.
        """
        if PROVIDER not in ort.get_available_providers():
            raise DeviceError(f"This ONNX Runtime has no {PROVIDER}.")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._folder = tempfile.TemporaryDirectory(prefix="nnfactory-")
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        try:
            self._session = ort.InferenceSession(model, options, providers=[PROVIDER])
        except Exception as error:  # noqa: BLE001 - onnxruntime raises its own untyped exceptions
            raise DataError(f"ONNX Runtime cannot open the network: {error}.") from error
        (value,) = self._session.get_inputs()
        if not all(isinstance(side, int) for side in value.shape):
            raise DataError(f"Input '{value.name}' must have a static shape, got {value.shape}.")
        image = np.random.default_rng(0).random(value.shape, dtype=np.float32)
        self._feed = {value.name: image}

    def run(self) -> None:
        """One inference from memory to memory; returns when it has finished."""
        self._session.run(None, self._feed)

    def node_ms(self) -> dict[str, float]:
        """Median time of every node in milliseconds; ends the profile. Needs ``profile=True``.

        Names are those after fusion: a fused node is named by what it writes.
        """
        path = Path(self._session.end_profiling())
        samples: dict[str, list[float]] = {}
        for event in json.loads(path.read_text(encoding="utf-8")):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                samples.setdefault(name, []).append(event["dur"] / 1e3)
        return {name: float(np.median(values)) for name, values in samples.items()}

    def close(self) -> None:
        """Release the network."""
        del self._session
        self._folder.cleanup()

    def __enter__(self) -> OnnxRuntimeRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def runtime_name() -> str:
    """Name and version, as tables and measurements state it."""
    return f"onnxruntime-cpu {ort.__version__}"
