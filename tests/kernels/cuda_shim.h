// Lets the sources of stformat/kernels/cuda compile as C++: a kernel runs thread after thread.
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__

struct ShimIndex {
    unsigned x, y, z;
};
static thread_local ShimIndex gridDim, blockDim, blockIdx, threadIdx;

template <class To, class From>
static inline To shim_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline unsigned __float_as_uint(float value) { return shim_bits<unsigned>(value); }
static inline float __uint_as_float(unsigned bits) { return shim_bits<float>(bits); }
static inline long long __double_as_longlong(double value) { return shim_bits<long long>(value); }
static inline double __longlong_as_double(long long bits) { return shim_bits<double>(bits); }

static inline void atomicAdd(unsigned long long* target, unsigned long long value) {
    *target += value;
}
static inline void atomicMin(unsigned long long* target, unsigned long long value) {
    if (value < *target) *target = value;
}

template <class... Arguments, std::size_t... Places>
static void shim_launch(void (*kernel)(Arguments...), unsigned grid_x, unsigned grid_y,
                        unsigned block, void** arguments, std::index_sequence<Places...>) {
    gridDim = {grid_x, grid_y, 1};
    blockDim = {block, 1, 1};
    for (blockIdx.y = 0; blockIdx.y < grid_y; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < grid_x; ++blockIdx.x) {
            for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x) {
                kernel(*static_cast<Arguments*>(arguments[Places])...);
            }
        }
    }
}

// What a parameter takes: of a number its size, whether it is a fraction (16) or else signed (32), of
// a pointer (64) what it points to.
template <class T>
struct ShimKind {
    static const unsigned fraction = std::is_floating_point<T>::value ? 16 : 0;
    static const unsigned value =
        sizeof(T) | fraction | (std::is_signed<T>::value && !fraction ? 32 : 0);
};
template <class T>
struct ShimKind<T*> {
    static const unsigned value = 64 | sizeof(T) | ShimKind<std::remove_const_t<T>>::fraction;
};

template <class... Arguments>
static int shim_run(void (*kernel)(Arguments...), unsigned grid_x, unsigned grid_y, unsigned block,
                    void** arguments, const unsigned* kinds, unsigned n_arguments) {
    const unsigned own[] = {ShimKind<Arguments>::value...};
    for (unsigned k = 0; k < sizeof...(Arguments) || k < n_arguments; ++k) {
        if (k >= sizeof...(Arguments) || k >= n_arguments || own[k] != kinds[k]) return (int)k + 1;
    }
    shim_launch(kernel, grid_x, grid_y, block, arguments, std::index_sequence_for<Arguments...>());
    return 0;
}

// What tests call: KERNEL's arguments as pointers and their kinds; 0 returned, or the number of the
// first argument, from 1 on, that is missing, too many or of another kind.
#define SHIM_ENTRY(KERNEL)                                                                     \
    extern "C" int run_##KERNEL(unsigned grid_x, unsigned grid_y, unsigned block,              \
                                void** arguments, const unsigned* kinds, unsigned n_arguments) { \
        return shim_run(KERNEL, grid_x, grid_y, block, arguments, kinds, n_arguments);         \
    }
