// Names of the number types, and the loops that every kernel runs in.
//
// Kernels use no barriers and no warp intrinsics, so that the same sources compile as C++ and run
// thread after thread. They are compiled with --fmad=false: where a multiply-add is rounded once,
// it says fma.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

// Items along the grid's x axis, any number of them.
#define FOR_EACH(index, count)                                                        \
    for (i64 index = (i64)blockIdx.x * blockDim.x + threadIdx.x; index < (i64)(count); \
         index += (i64)gridDim.x * blockDim.x)

// Items of the plane that the grid's x axis names, along its y axis: 32-bit indices divide faster.
#define FOR_EACH_IN_PLANE(index, count)                                   \
    for (u32 index = blockIdx.y * blockDim.x + threadIdx.x; index < (count); \
         index += gridDim.y * blockDim.x)

// A vector that is loaded and stored whole.
template <class T, int N>
struct alignas(N * sizeof(T)) Vector {
    T values[N];
};

template <class T, int N>
__device__ inline bool is_aligned(const T* address) {
    return (u64)address % (N * sizeof(T)) == 0;
}

// Arithmetic of floats by instructions that are written out: CuPy compiles with -ftz=true, whatever
// it is asked for, and takes numbers below 2**-126 for 0 in any other.
#ifdef __CUDACC__
__device__ inline float product(float a, float b) {
    float result;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}

__device__ inline float sum_of(float a, float b) {
    float result;
    asm("add.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
    return result;
}

__device__ inline double widened(float value) {
    double result;
    asm("cvt.f64.f32 %0, %1;" : "=d"(result) : "f"(value));
    return result;
}

__device__ inline void round_to(double value, float* target) {
    float result;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(result) : "d"(value));
    *target = result;
}
#else
inline float product(float a, float b) { return a * b; }
inline float sum_of(float a, float b) { return a + b; }
inline double widened(float value) { return (double)value; }
inline void round_to(double value, float* target) { *target = (float)value; }
#endif

template <class T>
__device__ inline double widened(T value) {
    return (double)value;
}

__device__ inline void round_to(double value, double* target) { *target = value; }
