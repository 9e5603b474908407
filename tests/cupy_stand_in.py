"""What stformat uses of CuPy, for tests on machines without a GPU; loaded under the name `cupy`.

Arrays have memory of their own that NumPy does not see; CUDA sources run as C++. It refuses what
CuPy refuses. It also refuses what CuPy lets pass and should not happen here: arrays of NumPy as
indices (they are copied at each use), arrays of another device than the current one, or of another
stream without waiting for it (a race), numbers without a type and arrays of another type as
arguments of kernels. New memory holds garbage. What is not here raises `AttributeError`, and has to
be looked up in CuPy before it is added.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import weakref
from itertools import count
from types import SimpleNamespace

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

N_DEVICES = 2
GARBAGE = 0xA5
LEGACY, PER_THREAD = 0, 2
MOST_BLOCKS, MOST_THREADS = (2**31 - 1, 65_535, 65_535), 1024

compile_source = None  # set by whoever loads this, to what works as `cuda_as_cpp.Compiler`


class CUDARuntimeError(RuntimeError):
    pass


# ---- devices and streams, which each thread has a current one of ---------------------------------


class _Current(threading.local):
    def __init__(self):
        self.device = 0
        self.devices = []
        self.streams = {}
        self.left_streams = []


_current = _Current()
_process = SimpleNamespace(is_used=False, is_lost=False)
_stream_numbers = count(PER_THREAD + 1)


def _lose_device():
    _process.is_lost = _process.is_used


os.register_at_fork(after_in_child=_lose_device)


def _device():
    _process.is_used = True
    if _process.is_lost:
        raise CUDARuntimeError("cudaErrorInitializationError: initialization error")
    return _current.device


def _set_device(number):
    if not 0 <= number < N_DEVICES:
        raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
    _current.device = number


class Device:
    def __init__(self, device=None):
        self.id = _device() if device is None else int(device)

    def __int__(self):
        return self.id

    def __enter__(self):
        _current.devices.append(_device())
        _set_device(self.id)
        return self

    def __exit__(self, *_exception):
        _set_device(_current.devices.pop())

    def use(self):
        _set_device(self.id)
        return self


class Stream:
    null = None
    ptds = None

    def __init__(self, *, null=False, ptds=False, non_blocking=False):
        del non_blocking
        self.device_id = -1 if null or ptds else _device()
        self.ptr = LEGACY if null else PER_THREAD if ptds else next(_stream_numbers)

    def __eq__(self, other):
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self):
        return self.ptr

    def __enter__(self):
        if self.device_id not in {-1, _device()}:
            raise RuntimeError("The device that the stream is created on does not match")
        _current.left_streams.append((_device(), get_current_stream()))
        _current.streams[_device()] = self
        return self

    def __exit__(self, *_exception):
        device, stream = _current.left_streams.pop()
        _current.streams[device] = stream


Stream.null = Stream(null=True)
Stream.ptds = Stream(ptds=True)


def get_current_stream():
    return _current.streams.get(_device(), Stream.null)


def _queue():
    """What orders work: two threads have different default streams where each has its own."""
    stream = get_current_stream()
    return stream.ptr, threading.get_ident() if stream == Stream.ptds else None


cuda = SimpleNamespace(
    Device=Device,
    Stream=Stream,
    get_current_stream=get_current_stream,
    runtime=SimpleNamespace(CUDARuntimeError=CUDARuntimeError),
)


def is_available():
    return True


# ---- arrays --------------------------------------------------------------------------------------


class ndarray(NDArrayOperatorsMixin):  # noqa: N801 - CuPy's name
    def __init__(self, memory, device, queue, *, is_view=False):
        self._memory = memory
        self._device_id = device
        self._queue = queue
        self._is_view = is_view
        self.shape, self.dtype, self.ndim = memory.shape, memory.dtype, memory.ndim
        self.size, self.nbytes = memory.size, memory.nbytes
        self.strides, self.itemsize = memory.strides, memory.itemsize

    @property
    def flags(self):
        flags = self._memory.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous,
            f_contiguous=flags.f_contiguous,
            owndata=not self._is_view,
        )

    @property
    def device(self):
        return Device(self._device_id)

    # Conversion

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def get(self):
        self._wait()
        return self._memory.copy()

    def set(self, array):
        if not isinstance(array, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != array.dtype:
            raise TypeError(f"{array.dtype} array cannot be set to {self.dtype} array")
        if self.shape != array.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {array.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        self._wait()
        self._memory[...] = array

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __repr__(self):
        return repr(self.get())

    def __str__(self):
        return str(self.get())

    def __format__(self, how):
        return format(self.get(), how)

    def tolist(self):
        return self.get().tolist()

    def __dlpack_device__(self):
        return self._memory.__dlpack_device__()

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        del stream
        here = self._here()
        return here.__dlpack__(max_version=max_version, dl_device=dl_device, copy=copy)

    # Where it is

    def _wait(self):
        if self._queue != _queue():
            raise RuntimeError(f"array of stream {self._queue} used on {_queue()} without waiting")

    def _here(self):
        if self._device_id != _device():
            raise ValueError(
                f"The device where the array resides ({self._device_id}) is different from the "
                f"current device ({_device()})"
            )
        self._wait()
        return self._memory

    def _view(self, memory):
        return ndarray(memory, self._device_id, self._queue, is_view=True)

    # Parts

    def __len__(self):
        if self.ndim == 0:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self):
        return (self[number] for number in range(len(self)))

    def __getitem__(self, key):
        parts = _parts(key)
        if isinstance(key, ndarray):
            where = self._where(key)
            return _new(self._here()[where])
        return self._view(self._memory[(*parts, *([] if Ellipsis in parts else [...]))])

    def __setitem__(self, key, value):
        parts = _parts(key)
        if isinstance(value, np.ndarray):
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")  # noqa: TRY004 - as CuPy
        where = self._where(key) if isinstance(key, ndarray) else parts
        self._here()[where] = _memory_of(value)

    def _where(self, key):
        """Return a mask, or positions, which CuPy wraps around where NumPy refuses them."""
        where = key._here()
        return where if where.dtype == bool else where % len(self)

    def view(self, dtype):
        return self._view(self._memory.view(dtype))

    # What is made of it

    def astype(self, dtype, *, copy=True):
        if not copy and self.dtype == dtype:
            return self
        return _new(self._here().astype(dtype))

    def copy(self):
        return _new(self._here().copy(order="C"))

    def fill(self, value):
        if np.ndim(value) != 0:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        self._here().fill(value)

    def all(self):
        return _new(self._here().all())

    def any(self):
        return _new(self._here().any())

    def sum(self):
        return _new(self._here().sum())

    def min(self):
        return _new(self._here().min())

    def max(self):
        return _new(self._here().max())

    def argmin(self):
        return _new(self._here().argmin())

    def argmax(self):
        return _new(self._here().argmax())

    def __array_ufunc__(self, function, method, *inputs, out=(), **named):
        if method != "__call__" or named:
            return NotImplemented
        found = function(*map(_memory_of, inputs), out=tuple(map(_memory_of, out)) or None)
        return out[0] if out else _new(found)

    def __array_function__(self, function, _types, arguments, named):
        own = globals().get(function.__name__)
        return NotImplemented if own is None else own(*arguments, **named)


def _parts(key):
    parts = key if isinstance(key, tuple) else (key,)
    for part in parts:
        is_position = isinstance(part, int | np.integer) and not isinstance(part, bool)
        is_alone = isinstance(part, ndarray) and part is key
        is_whole = part is None or part is ... or isinstance(part, slice)
        if not (is_position or is_alone or is_whole):
            raise TypeError(f"an index must be an array of CuPy, got {type(part).__name__}")
    return parts


def _memory_of(value):
    """Return the memory of an array that is where work is done, or a number as it is."""
    if isinstance(value, ndarray):
        return value._here()
    if not isinstance(value, bool | int | float | np.generic):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _new(found):
    if isinstance(found, tuple):
        return tuple(map(_new, found))
    memory = np.asarray(found)
    if memory.dtype.kind not in "biuf":
        raise ValueError(f"Unsupported dtype {memory.dtype}")
    # Never memory that NumPy has too.
    memory = memory.copy(order="F" if memory.flags.fnc else "C")
    _take(memory.nbytes)
    weakref.finalize(memory, _take, -memory.nbytes).atexit = False
    return ndarray(memory, _device(), _queue())


usage = SimpleNamespace(n_bytes=0, most_bytes=0)
"""What arrays take, and took at most since a test set it."""


def _take(n_bytes):
    usage.n_bytes += n_bytes
    usage.most_bytes = max(usage.most_bytes, usage.n_bytes)


# ---- functions of the module ---------------------------------------------------------------------


def array(values):
    return _new(values._here() if isinstance(values, ndarray) else values)


def asarray(values):
    if isinstance(values, ndarray):
        values._here()
        return values
    return _new(values)


def asnumpy(values):
    return values.get()


def empty(shape, dtype=np.float64):
    shape = shape if isinstance(shape, tuple) else (shape,)
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    garbage = np.full(n_bytes, GARBAGE, np.uint8)
    return _new(garbage.view(dtype).reshape(shape))


def zeros(shape, dtype=np.float64):
    return _new(np.zeros(shape, dtype))


def ones(shape, dtype=np.float64):
    return _new(np.ones(shape, dtype))


def arange(stop):
    return _new(np.arange(stop))


def ascontiguousarray(values):
    return values if values.flags.c_contiguous else values.copy()


def argmin(values):
    return values.argmin()


def argmax(values):
    return values.argmax()


def argsort(values, *, kind=None):
    if kind not in {None, "stable"}:
        raise ValueError("kind can only be None or 'stable'")
    return _new(np.argsort(values._here(), kind="stable"))


def searchsorted(values, wanted):
    if not (isinstance(values, ndarray) and isinstance(wanted, ndarray)):
        raise NotImplementedError("Only int or ndarray are supported for a")
    return _new(np.searchsorted(values._here(), wanted._here()))


def cumsum(values):
    return _new(np.cumsum(values._here()))


def flatnonzero(values):
    return _new(np.flatnonzero(values._here()))


def divmod(values, divisor):  # noqa: A001 - CuPy's name
    return _new(np.divmod(_memory_of(values), _memory_of(divisor)))


def flip(values, *, axis):
    return values._view(np.flip(values._memory, axis=axis))


def rot90(values, turns, *, axes):
    if not isinstance(turns, int):
        raise TypeError("turns must be an int")
    return values._view(np.rot90(values._memory, turns, axes=axes))


# ---- kernels -------------------------------------------------------------------------------------


class RawModule:
    def __init__(self, *, code, options=()):
        if not (isinstance(code, str) and isinstance(options, tuple)):
            raise TypeError("code must be a str, and options a tuple")
        self._source = code, options

    @property
    def names(self):
        """All kernels; CuPy does not say which there are."""
        return compile_source(*self._source).names

    def get_function(self, name):
        _device()
        library = compile_source(*self._source)
        if name not in library.names:
            raise RuntimeError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        return RawKernel(getattr(library, f"run_{name}"), name)


class RawKernel:
    def __init__(self, run, name):
        self._run = run
        self._name = name

    def __call__(self, grid, block, arguments):
        if not all(isinstance(each, tuple) for each in (grid, block, arguments)):
            raise TypeError("grid, block and arguments must be tuples")
        if not all(0 < n <= most for n, most in zip(grid, MOST_BLOCKS, strict=False)):
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: invalid argument: grid {grid}")
        if not 0 < math.prod(block) <= MOST_THREADS:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: invalid argument: block {block}")
        held = [_stored(argument) for argument in arguments]
        places = (ctypes.c_void_p * len(held))(*(each.ctypes.data for each in held))
        kinds = (ctypes.c_uint * len(held))(*map(_kind, arguments))
        (grid_x, grid_y), (threads,) = (*grid, 1)[:2], block
        differing = self._run(grid_x, grid_y, threads, places, kinds, len(held))
        if differing:
            raise TypeError(f"{self._name}: argument {differing} of {len(held)} is not its own")


def _stored(argument):
    """Return memory that holds an argument itself: a number, or the address of an array."""
    if isinstance(argument, ndarray):
        return np.array([argument._here().ctypes.data], np.uint64)
    if not isinstance(argument, np.generic):
        raise TypeError(f"an argument must be an array or a number of a type, got {argument!r}")
    return np.array([argument])


def _kind(argument):
    """Return what ShimKind of the shim says of a parameter that takes an argument."""
    is_array, dtype = isinstance(argument, ndarray), argument.dtype
    is_fraction = dtype.kind == "f" and dtype.itemsize > 2  # kernels write the bits of halves
    is_signed = dtype.kind == "i" and not is_array
    return dtype.itemsize | 16 * is_fraction | 32 * is_signed | 64 * is_array
