"""Device errors without a GPU: the package's steps on tensors that say ``cuda`` and hold nothing.

``python -m tests.fake_cuda`` traces every path of :data:`tests.fake_cuda_paths.PATHS` and prints,
as JSON, what would raise on a card and where each would wait for it. :func:`guard` makes the
library to be preloaded into that process: it tells a CPU build of torch that there is a card, so
that autograd runs.

torch's FakeTensorMode raises for an operation over two devices. Added here: ``.numpy()`` of a fake
CUDA tensor raises, and a product or convolution of two floating dtypes; what Python asks a tensor
for (``.item()``, ``bool()``, the places of a boolean mask) is made up and counted, and so is a copy
to the card that says nothing of ``non_blocking``, which waits for it too. bf16 casts in
an autocast are not proven: it is off in a CPU build.
"""

from __future__ import annotations

import collections
import contextlib
import json
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

SOURCE = Path(__file__).parent / "files" / "fake_cuda_guard.cpp"
WAITS: collections.Counter[str] = collections.Counter()
_mode: FakeTensorMode | None = None
_dtypes = {
    torch.empty(0, dtype=dtype).numpy().dtype: dtype
    for dtype in (
        torch.float16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int32,
        torch.int64,
    )
}  # fmt: skip
_ours = {dtype: name for name, dtype in _dtypes.items()}


def guard(folder: Path) -> Path:
    """The library, compiled into ``folder``."""
    root, out = Path(torch.__file__).parent, folder / "guard.so"
    headers = [f"-I{root}/include", f"-I{root}/include/torch/csrc/api/include"]
    command = ["g++", "-O0", "-shared", "-fPIC", "-std=c++20", "-D_GLIBCXX_USE_CXX11_ABI=1"]
    command += [*headers, str(SOURCE), "-o", str(out)]
    # Loaded before torch, which asks once, early and for good whether there is a card.
    command += [f"-L{root}/lib", f"-Wl,-rpath,{root}/lib", "-lc10", "-ltorch_cpu"]
    subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    return out


class _OneType(TorchDispatchMode):
    """Products of two floating dtypes raise, as on a card."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in {"mm", "addmm", "bmm", "baddbmm", "convolution"}:
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            found = {t.dtype for t in tensors if t.dtype.is_floating_point}
            if len(found) > 1:
                raise RuntimeError(f"{func} of more than one dtype, {found}, {_where()}")
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def traced() -> Iterator[None]:
    """Tensors made inside hold nothing."""
    global _mode
    WAITS.clear()
    _mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with _mode, _OneType():
            yield
    finally:
        _mode = None


def report(path: Callable[[], Any]) -> dict[str, Any]:
    """``error`` (None where nothing would raise) and ``waits`` of one path, by source line."""
    error = None
    try:
        with traced():
            path()
    except Exception as found:
        frames = traceback.extract_tb(found.__traceback__)
        lines = [f"{f.filename}:{f.lineno}" for f in frames if "/torch/" not in f.filename]
        error = f"{type(found).__name__}: {found} at {lines[-3:]}"
    return {"error": error, "waits": dict(WAITS)}


def _where() -> str:
    frame = sys._getframe(2)
    for _ in range(12):
        code = frame.f_code
        if "/coin_ray/" in code.co_filename:
            return f"{code.co_filename.split('/coin_ray/')[-1]}:{code.co_name}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "elsewhere"


def _on_card(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.fake_device.type != "cpu"


def patch() -> None:
    """The ways from a tensor to Python and back, for tensors that hold nothing."""
    tensor: Any = torch.Tensor
    numpy, item, truth, tolist, from_numpy = (
        tensor.numpy, tensor.item, tensor.__bool__, tensor.tolist, torch.from_numpy
    )  # fmt: skip

    def fake_numpy(self: torch.Tensor, **options: Any) -> Any:
        if not isinstance(self, FakeTensor):
            return numpy(self, **options)
        if _on_card(self):
            raise TypeError(f"can't convert a tensor of {self.fake_device} to numpy, {_where()}")
        return np.ones(tuple(self.shape), dtype=_ours[self.dtype])

    def made_up(self: torch.Tensor) -> Any:
        if _on_card(self):
            WAITS[_where()] += 1
        return 0.5 if self.dtype.is_floating_point else 1

    def fake_item(self: torch.Tensor) -> Any:
        return made_up(self) if isinstance(self, FakeTensor) else item(self)

    def fake_truth(self: torch.Tensor) -> bool:
        return bool(made_up(self)) if isinstance(self, FakeTensor) else truth(self)

    def fake_tolist(self: torch.Tensor) -> Any:
        if not isinstance(self, FakeTensor):
            return tolist(self)
        return np.full(tuple(self.shape), made_up(self)).tolist()

    def fake_from_numpy(array: Any) -> torch.Tensor:
        real = from_numpy(array)
        return real if _mode is None else _mode.from_tensor(real)

    def fake_cpu(self: torch.Tensor, *options: Any, **named: Any) -> torch.Tensor:
        if _on_card(self):
            WAITS[_where()] += 1
        return cpu(self, *options, **named)

    def fake_to(self: torch.Tensor, *where: Any, **options: Any) -> torch.Tensor:
        out = to(self, *where, **options)
        if _on_card(out) and not _on_card(self) and not options.get("non_blocking"):
            WAITS[_where()] += 1
        return out

    def fake_made(*content: Any, **options: Any) -> torch.Tensor:
        out = made(*content, **options)
        if _on_card(out):
            WAITS[_where()] += 1
        return out

    def masks(self: torch.Tensor, index: Any) -> bool:
        mask = isinstance(index, FakeTensor) and index.dtype == torch.bool
        if mask and _on_card(self):
            WAITS[_where()] += 1
        return mask

    def check(self: torch.Tensor, index: Any) -> None:
        parts = index if isinstance(index, tuple) else (index,)
        if not _on_card(self) and any(_on_card(part) for part in parts):
            raise RuntimeError(f"a tensor on the CPU is indexed from another device, {_where()}")

    def fake_getitem(self: torch.Tensor, index: Any) -> torch.Tensor:
        check(self, index)
        if not masks(self, index):
            return getitem(self, index)
        _ = self.reshape(-1)[:1] + index.sum()  # both on one device
        return self.flatten(0, index.ndim - 1)  # as if all were chosen

    def fake_setitem(self: torch.Tensor, index: Any, value: Any) -> None:
        check(self, index)
        if not masks(self, index):
            setitem(self, index, value)
            return
        if isinstance(value, torch.Tensor) and value.numel() == self.numel():
            value = value.reshape(self.shape)  # x[mask] += y, from fake_getitem
        chosen = index.reshape(*index.shape, *[1] * (self.ndim - index.ndim))
        self.copy_(torch.where(chosen, value, self))

    getitem, tensor.__getitem__ = tensor.__getitem__, fake_getitem
    setitem, tensor.__setitem__ = tensor.__setitem__, fake_setitem
    cpu, tensor.cpu = tensor.cpu, fake_cpu
    to, tensor.to = tensor.to, fake_to
    made, torch.tensor = torch.tensor, fake_made
    tensor.pin_memory = lambda self: self
    tensor.numpy, tensor.item, tensor.__bool__, tensor.tolist = (
        fake_numpy, fake_item, fake_truth, fake_tolist
    )  # fmt: skip
    tensor.__float__ = lambda self: float(fake_item(self))
    torch.from_numpy = fake_from_numpy
    module: Any = torch.nn.Module
    module._apply = _apply
    files: Any = safetensors.torch  # a file's content is beside the point, and there is none
    files.save = lambda tensors: b""
    files.save_file = lambda tensors, path: Path(path).touch()
    cuda: Any = torch.cuda
    cuda.is_bf16_supported = lambda including_emulation=True: True
    cuda.mem_get_info = lambda device=None: (2**30, 2**30)
    random: Any = torch.random
    random.fork_rng = lambda *places, **options: contextlib.nullcontext()


def _apply(self: torch.nn.Module, move: Callable[[Any], Any], recurse: bool = True) -> Any:
    """``Module._apply`` with new parameters: swapping a parameter's data keeps its old device."""
    for child in self.children():
        child._apply(move)
    for name, value in self._parameters.items():
        if value is not None:
            with torch.no_grad():
                moved = move(value)
            if moved is not value:
                self._parameters[name] = torch.nn.Parameter(moved, value.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = move(buffer)
    return self


def main() -> None:
    from tests.fake_cuda_paths import PATHS

    torch.set_num_threads(1)
    patch()
    print(json.dumps({name: report(path) for name, path in PATHS.items()}))


if __name__ == "__main__":
    main()
