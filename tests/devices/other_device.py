"""A test device that is not the CPU: its tensors lie in ordinary memory, and behave as a GPU's do where that can go wrong.

It takes the place of a GPU that is not at hand. What fails there fails here: a tensor of the CPU that meets one of the
device, a generator of another device, `.numpy()` of a device tensor, a mask or a buffer that was left behind. Arithmetic
is the CPU's own, so results equal those of the CPU bit for bit.

    with other_device() as device:
        model.to(device)(images.to(device))

Every operation is seen by a dispatch mode of the process; tensors are wrappers (`DeviceTensor`) around a CPU tensor.
To be imported before the process computes its first gradient: the threads of autograd are made for the devices of then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "other"
_CROSSES = frozenset({"aten::_to_copy", "aten::copy_"})  # what a transfer is made of


class DeviceMismatch(RuntimeError):
    """Tensors, or a generator, of two devices meet."""


class DeviceTensor(Tensor):
    """A tensor that says it lies on the test device.

    Attributes:
        raw: The CPU tensor that holds its values.
    """

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> DeviceTensor:
        made: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        return made

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.raw!r})"

    def tolist(self) -> Any:
        """As of a CUDA tensor: it is copied, then listed."""
        return self.raw.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class DeviceGenerator(torch.Generator):
    """A generator that knows which device it draws for; the draws are the CPU's."""

    def __new__(cls, device: Any = "cpu") -> DeviceGenerator:
        made: DeviceGenerator = super().__new__(cls)
        made.draws_for = torch.device(device).type
        return made

    draws_for: str


class _Generators(TorchFunctionMode):
    """Compares generators with what they draw for; below this level torch does not tell them apart."""

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if isinstance(generator := named.get("generator"), DeviceGenerator):
            asked = named.get("device") or next((one.device for one in args if isinstance(one, Tensor)), "cpu")
            if torch.device(asked).type != generator.draws_for:
                raise DeviceMismatch(f"{func}: a generator of the one device draws for the other ({asked})")
        return func(*args, **named)


class _Everything(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run one operation on the values, and refuse what a GPU refuses."""
    device: list[DeviceTensor] = []
    cpu: list[Tensor] = []

    def unwrapped(one: Any) -> Any:
        if isinstance(one, DeviceTensor):
            device.append(one)
            return one.raw
        if isinstance(one, Tensor) and one.dim() > 0:  # a number of the CPU is taken everywhere
            cpu.append(one)
        return one

    given, named = tree_map(unwrapped, tuple(args)), tree_map(unwrapped, dict(kwargs))
    name = func._schema.name
    there = bool(device)
    if named.get("device") is not None:
        there = torch.device(named["device"]).type == NAME
        named["device"] = torch.device("cpu")
    if device and cpu and name not in _CROSSES and not _may_mix(name, args):
        raise DeviceMismatch(f"{func}: expected all tensors to be on one device, but found {NAME}:0 and cpu")
    found = func(*given, **named)
    if name == "aten::copy_":
        return args[0]
    if not there:
        return found
    known = {id(one.raw): one for one in device}
    return tree_map(lambda one: _wrapped(one, known), found)


def _may_mix(name: str, args: Sequence[Any]) -> bool:
    """Whether CUDA takes CPU tensors here: as the index of a device tensor."""
    return name in ("aten::index", "aten::index_put_") and isinstance(args[0], DeviceTensor)


def _wrapped(one: Any, known: Mapping[int, DeviceTensor]) -> Any:
    if not isinstance(one, Tensor) or isinstance(one, DeviceTensor):
        return one
    return known[id(one)] if id(one) in known else DeviceTensor(one)


class _Backend(_DummyBackendModule):
    """What torch asks of a device's module; it computes in float32, as mixed precision is the CPU's."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float32]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.random.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.random.set_rng_state(state)


_setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())


def _empty_strided(size: Sequence[int], stride: Sequence[int], *, dtype: Any = None, **given: Any) -> DeviceTensor:
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    into = target.raw if isinstance(target, DeviceTensor) else target
    into.copy_(source.raw if isinstance(source, DeviceTensor) else source)
    return target


# What torch does past the mode, such as `torch.tensor(…, device=…)`.
_kernels = torch.library.Library("aten", "IMPL")
_kernels.impl("empty_strided", _empty_strided, "PrivateUse1")
_kernels.impl("_copy_from", _copy_from, "PrivateUse1")
_autocast = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
_autocast.fallback(torch.library.fallthrough_kernel)  # mixed precision casts nothing there


@contextmanager
def other_device() -> Iterator[torch.device]:
    """Make the test device usable in this process, for as long as the block lasts."""
    with mock.patch.object(torch, "Generator", DeviceGenerator), _Generators(), _Everything():
        yield torch.device(NAME, 0)
