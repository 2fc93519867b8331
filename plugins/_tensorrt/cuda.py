"""The few calls of the CUDA driver that running an engine takes, without a framework.

The driver's own library is all there is to load: it comes with every NVIDIA driver, and TensorRT shares
its primary context.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from registry_export.errors import RuntimeAbsentError, VerificationError
from registry_export.format import Array

_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""


def library() -> Any:
    """Load and start the driver.

    Raises:
        RuntimeAbsentError: There is no driver, or it sees no GPU.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise RuntimeAbsentError(
            f"there is no driver here for an NVIDIA GPU ({_LIBRARY}).",
            remedy="Run it on the GPU that it was built for.",
        ) from error
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        raise RuntimeAbsentError(
            "the driver sees no NVIDIA GPU here.",
            remedy="Run it on the GPU that it was built for.",
        )
    return driver


def problem() -> str:
    """Say why no GPU can be used; empty where one can."""
    try:
        library()
    except RuntimeAbsentError as error:
        return error.message
    return ""


def compute_capability() -> str:
    """Name the compute capability of the first GPU, as `sm89`.

    Raises:
        RuntimeAbsentError: There is none.
    """
    driver = library()
    device = ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        number = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        numbers.append(str(number.value))
    return f"sm{''.join(numbers)}"


class Cuda:
    """The first GPU's primary context with one stream, until `close`."""

    def __init__(self) -> None:
        self._driver = library()
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(self._stream), 0)

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream.value or 0)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes on the GPU (one at least) and return their address."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return int(address.value)

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: Array) -> None:
        """Copy a contiguous array to the GPU."""
        if array.nbytes:
            source = ctypes.c_void_p(array.ctypes.data)
            self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(array.nbytes))

    def download(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Copy an array from the GPU."""
        array: Array = np.empty(shape, dtype)
        if array.nbytes:
            target = ctypes.c_void_p(array.ctypes.data)
            self._call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))
        return array

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """Give stream and context back."""
        self._driver.cuStreamDestroy_v2(self._stream)
        self._driver.cuDevicePrimaryCtxRelease_v2(self._device)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(code, ctypes.byref(text))
            told = text.value.decode() if text.value else f"error {code}"
            raise VerificationError(f"The GPU refused {name}: {told}.")


@contextmanager
def gpu() -> Iterator[Cuda]:
    """Hold the GPU for a while.

    Raises:
        RuntimeAbsentError: There is none.
    """
    cuda = Cuda()
    try:
        yield cuda
    finally:
        cuda.close()
