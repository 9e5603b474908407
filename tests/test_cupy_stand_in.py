"""The stand-in for CuPy refuses what CuPy refuses, which is asked of CuPy where there is a GPU."""

from __future__ import annotations

import threading

import numpy as np
import pytest

ADD = """
extern "C" __global__ void add_number(const float* values, long long n, float number, float* out) {
    for (long long k = threadIdx.x; k < n; k += blockDim.x) out[k] = values[k] + number;
}
"""


@pytest.fixture(scope="module", params=["stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request, use_cupy):
    with use_cupy(request.param) as module:
        yield module


@pytest.fixture(scope="module")
def stand_in(use_cupy):
    with use_cupy("stand-in") as module:
        yield module


def add_kernel(cupy):
    return cupy.RawModule(code=ADD, options=("--std=c++17",)).get_function("add_number")


def test_what_is_computed_is_what_numpy_computes(cupy):
    host = np.array([[3, 1, 2], [9, 0, 7]], np.int32)
    there = cupy.asarray(host)
    assert type(there).__module__ == "cupy"
    assert not isinstance(there, np.ndarray)
    for function in (
        lambda a: a[:, 1:] - 2 * a[:, :-1] >= 0,
        lambda a: (a > 1) & (a < 9),
        lambda a: a[1, ::-1],
        lambda a: a[-1].sum(),
        lambda a: np.argmin(a[0]),
        lambda a: np.isfinite(a * 0.5),
        lambda a: a.astype(np.float16),
        lambda a: a[a[:, 0] > 5],
    ):
        found, expected = function(there), function(host)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.get(), expected)


def test_arrays_have_memory_of_their_own(cupy):
    host = np.arange(3)
    there = cupy.asarray(host)
    host[0] = 7
    back = there.get()
    back[1] = 8
    assert there.tolist() == [0, 1, 2]
    assert cupy.asarray(there) is there


def test_an_element_is_an_array(cupy):
    element = cupy.asarray(np.array([4, 5]))[1]
    assert (element.shape, int(element), f"{element}") == ((), 5, "5")
    with pytest.raises(TypeError):
        range(element)


def test_positions_out_of_range_wrap_around(cupy):
    """So they must be checked before they are used."""
    values = cupy.asarray(np.arange(3))
    assert values[cupy.asarray(np.array([4, -1]))].tolist() == [1, 2]
    with pytest.raises(IndexError):
        values[4]


@pytest.mark.parametrize(
    ("refused", "error"),
    [
        (lambda _, there: np.asarray(there), TypeError),
        (lambda _, there: there + np.ones(3, np.float32), TypeError),
        (lambda _, there: np.ones(3, np.float32) + there, TypeError),
        (lambda _, there: np.add(there, there, out=np.ones(3, np.float32)), TypeError),
        (lambda _, there: there.__setitem__(slice(None), np.ones(3)), ValueError),
        (lambda _, there: there.fill(np.ones(3)), ValueError),
        (lambda _, there: there.set(np.ones(3)), TypeError),
        (lambda _, there: there.set(np.ones(2, np.float32)), ValueError),
        (lambda _, there: there[::2].set(np.ones(2, np.float32)), RuntimeError),
        (lambda _, there: there.set(there), TypeError),
        (lambda _, there: bool(there), ValueError),
        (lambda _, there: hash(there), TypeError),
        (lambda cupy, there: cupy.argsort(there, kind="quicksort"), ValueError),
        (lambda cupy, there: cupy.searchsorted(there, np.ones(1)), NotImplementedError),
        (lambda cupy, _: cupy.asarray(np.array(["a"])), ValueError),
        (lambda cupy, _: cupy.RawModule(code=ADD, options=["--std=c++17"]), TypeError),
        (lambda cupy, _: cupy.RawModule(code=ADD.encode()), TypeError),
        (lambda cupy, there: add_kernel(cupy)([1], (1,), (there,)), TypeError),
        (lambda cupy, there: add_kernel(cupy)((1,), 1, (there,)), TypeError),
        (lambda cupy, there: add_kernel(cupy)((1,), (1,), (np.ones(3), there)), TypeError),
    ],
)
def test_what_cupy_refuses(cupy, refused, error):
    there = cupy.asarray(np.ones(3, np.float32))
    with pytest.raises(error):
        refused(cupy, there)


def test_kernels_compute(cupy):
    values, out = cupy.asarray(np.arange(5, dtype=np.float32)), cupy.empty(5, np.float32)
    add_kernel(cupy)((1,), (2,), (values, np.int64(5), np.float32(0.5), out))
    assert out.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5]


# ---- what CuPy lets pass


@pytest.mark.parametrize(
    ("number", "change", "argument"),
    [
        (1, 0, np.zeros(3)),
        (1, 0, np.ones(3, np.int32)),
        (2, 1, np.int32(3)),
        (2, 1, np.uint64(3)),
        (3, 2, np.float64(1)),
        (4, 3, np.float32(1)),
    ],
)
def test_arguments_of_another_type_are_refused(stand_in, number, change, argument):
    arguments = [np.ones(3, np.float32), np.int64(3), np.float32(1), np.ones(3, np.float32)]
    arguments[change] = argument
    there = [stand_in.asarray(each) if each.ndim else each for each in arguments]
    with pytest.raises(TypeError, match=f"argument {number} of 4"):
        add_kernel(stand_in)((1,), (1,), tuple(there))


@pytest.mark.parametrize("n", [3, 5])
def test_another_number_of_arguments_is_refused(stand_in, n):
    values = stand_in.asarray(np.ones(3, np.float32))
    given = (values, np.int64(3), np.float32(1), values, values)[:n]
    with pytest.raises(TypeError, match=f"argument {min(n + 1, 5)} of {n}"):
        add_kernel(stand_in)((1,), (1,), given)


def test_a_number_without_a_type_is_refused(stand_in):
    values = stand_in.asarray(np.ones(3, np.float32))
    with pytest.raises(TypeError, match="a number of a type, got 3"):
        add_kernel(stand_in)((1,), (1,), (values, 3, np.float32(1), values))


def test_a_grid_that_is_too_large_is_refused(stand_in):
    with pytest.raises(RuntimeError, match="grid"):
        add_kernel(stand_in)((1, 65_536), (1,), ())
    with pytest.raises(RuntimeError, match="block"):
        add_kernel(stand_in)((1,), (1025,), ())


def test_arrays_of_numpy_are_no_index(stand_in):
    values = stand_in.asarray(np.arange(3))
    with pytest.raises(TypeError, match="must be an array of CuPy, got ndarray"):
        values[np.array([0, 1])]
    with pytest.raises(TypeError, match="must be an array of CuPy, got ndarray"):
        values[np.array([0, 1])] = 1


def test_new_memory_holds_garbage(stand_in):
    assert stand_in.empty(2, np.uint16).tolist() == [0xA5A5, 0xA5A5]


# ---- devices and streams


def test_arrays_of_another_device_are_refused(stand_in):
    first = stand_in.asarray(np.ones(2, np.float32))
    with stand_in.cuda.Device(1):
        second = stand_in.asarray(np.ones(2, np.float32))
        assert (first.device.id, second.device.id) == (0, 1)
        for use in (
            lambda: first + second,
            first.copy,
            lambda: second[first > 0],
            lambda: second.__setitem__(slice(None), first),
            lambda: stand_in.asarray(first),
            lambda: add_kernel(stand_in)((1,), (1,), (second, np.int64(2), np.float32(1), first)),
        ):
            with pytest.raises(ValueError, match="different from the current device"):
                use()
    with pytest.raises(ValueError, match="different from the current device"):
        second.sum()
    assert second.get().tolist() == [1.0, 1.0]


def test_arrays_of_another_stream_are_refused(stand_in):
    values = stand_in.asarray(np.ones(2))
    with stand_in.cuda.Stream():
        for use in (values.sum, values.get):
            with pytest.raises(RuntimeError, match="without waiting"):
                use()
    assert values.sum().get() == 2.0


def test_a_thread_begins_with_the_first_device_and_the_default_stream(stand_in):
    seen = []

    def look():
        seen.append((stand_in.cuda.Device().id, stand_in.cuda.get_current_stream()))

    with stand_in.cuda.Device(1), stand_in.cuda.Stream() as stream:
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    look()
    null = stand_in.cuda.Stream.null
    assert seen == [(1, stream), (0, null), (0, null)]


def test_the_default_streams_of_two_threads_differ_where_each_has_its_own(stand_in):
    made = []
    with stand_in.cuda.Stream.ptds:
        thread = threading.Thread(target=lambda: made.append(in_own_stream(stand_in)))
        thread.start()
        thread.join()
        with pytest.raises(RuntimeError, match="without waiting"):
            made[0].get()


def in_own_stream(cupy):
    with cupy.cuda.Stream.ptds:
        return cupy.asarray(np.ones(1))


def test_a_stream_is_of_one_device(stand_in):
    stream = stand_in.cuda.Stream()
    with (
        stand_in.cuda.Device(1),
        pytest.raises(RuntimeError, match="does not match"),
        stream,
    ):
        pass


def test_a_device_that_is_not_there_is_refused(stand_in):
    with pytest.raises(stand_in.cuda.runtime.CUDARuntimeError, match="invalid device ordinal"):
        stand_in.cuda.Device(2).use()
