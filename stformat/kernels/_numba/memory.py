"""What compiled loops ask of memory and Python has no words for: block copies and prefetches."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stformat.kernels._numba._compile import Array, inlined

__all__ = ["copy_memory", "prefetch_span"]

CACHE_LINE = 64


@intrinsic
def _copy_memory(_typing: Any, target: Any, source: Any, _start: Any, _n: Any) -> Any:  # noqa: ANN401 - numba's own types
    """Compile to memcpy of samples of one array, from a place in it, to the first of another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401 - likewise
        target, source = (
            context.make_array(kind)(context, builder, array).data
            for kind, array in zip(signature.args[:2], arguments[:2], strict=True)
        )
        size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
        source = builder.gep(source, [arguments[2]])
        cgutils.raw_memcpy(builder, target, source, arguments[3], size)  # type: ignore[no-untyped-call] # of numba
        return context.get_dummy_value()

    return types.void(target, source, types.int64, types.int64), generate


# numba types an intrinsic by its definition, with the typing context that callers do not pass.
copy_memory: Any = _copy_memory


@intrinsic
def _prefetch(_typing: Any, array: Any, _place: Any) -> Any:  # noqa: ANN401 - likewise
    """Compile to a hint that an element will be read soon, which need not exist."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401 - likewise
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        builder.call(prefetch, [address, *(number(n) for n in (0, 3, 1))])  # read, keep, data
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


_prefetch_element: Any = _prefetch


@inlined
def prefetch_span(values: Array, start: int, stop: int) -> None:
    """Have elements that lie side by side read into the cache while others are worked on.

    Processors guess what is read next, but not where a row at random begins: that waits for memory,
    longer than the row is worked on.
    """
    for place in range(start, stop, CACHE_LINE // values.itemsize):
        _prefetch_element(values, place)
