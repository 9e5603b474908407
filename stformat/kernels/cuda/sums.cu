// Moments of genes and rows pooled by group: twins of kernels/_reference.py.
#include "scalars.cuh"

static const i64 LOW = 0xFFFFFFFFll;

// Integers add up to the same bits in any order. `first_bad` takes the position of the first value
// or column that is out of range.
template <class T, class I>
__device__ inline void count_moments(const T* data, const I* indices, i64 n_values, i64 n_vars,
                                     u64* sums, u64* squares_high, u64* squares_low,
                                     u64* first_bad) {
    FOR_EACH(k, n_values) {
        const i64 gene = indices[k], value = (i64)data[k];
        if (gene < 0 || gene >= n_vars || value < -LOW || value > LOW) {
            atomicMin(first_bad, (u64)k);
            continue;
        }
        const u64 magnitude = (u64)(value < 0 ? -value : value), square = magnitude * magnitude;
        atomicAdd(sums + gene, (u64)value);
        atomicAdd(squares_low + gene, square & (u64)LOW);
        if (square >> 32) atomicAdd(squares_high + gene, square >> 32);
    }
}

// Fractions are added one after the other: `order` lists the values of each gene by row.
template <class T>
__device__ inline void value_moments(const T* data, const i64* order, const i64* bounds, i64 n_vars,
                                     double* sums, double* squares) {
    FOR_EACH(gene, n_vars) {
        double sum = sums[gene], square = squares[gene];
        for (i64 k = bounds[gene]; k < bounds[gene + 1]; ++k) {
            const double value = widened(data[order[k]]);
            sum += value;
            square += value * value;
        }
        sums[gene] = sum;
        squares[gene] = square;
    }
}

// The place of a value in the result, were that dense: group * n_vars + column. Rows without a group
// come last.
template <class I>
__device__ inline void pooled_places(const I* indices, const i64* indptr, i64 n_rows,
                                     const i64* group, i64 n_vars, u32 threads_of_row, i64* out) {
    FOR_EACH(i, n_rows * threads_of_row) {
        const i64 row = i / threads_of_row;
        for (i64 k = indptr[row] + i % threads_of_row; k < indptr[row + 1]; k += threads_of_row) {
            out[k] = group[row] < 0 ? 0x7FFFFFFFFFFFFFFFll : group[row] * n_vars + (i64)indices[k];
        }
    }
}

__device__ inline bool is_int32(i64 value) { return value == (i64)(i32)value; }

// Values of one place are added one after the other, by row. `first_bad` takes the first place with
// a value or a sum that int32 cannot hold.
template <class T>
__device__ inline void pooled_counts(const T* data, const i64* order, const i64* bounds,
                                     i64 n_places, u64* first_bad, i32* out) {
    FOR_EACH(place, n_places) {
        i64 sum = 0;
        bool is_held = true;
        for (i64 k = bounds[place]; k < bounds[place + 1]; ++k) {
            const i64 value = (i64)data[order[k]];
            is_held = is_held && is_int32(value);
            sum += is_held ? value : 0;
        }
        if (!is_held || !is_int32(sum)) atomicMin(first_bad, (u64)place);
        out[place] = (i32)sum;
    }
}

template <class T>
__device__ inline void pooled_values(const T* data, const i64* order, const i64* bounds,
                                     i64 n_places, T* out) {
    FOR_EACH(place, n_places) {
        double sum = 0.0;
        for (i64 k = bounds[place]; k < bounds[place + 1]; ++k) sum += widened(data[order[k]]);
        round_to(sum, out + place);
    }
}

#define COUNT_MOMENTS_KERNEL(name, T, I)                                                         \
    extern "C" __global__ void count_moments_##name(const T* data, const I* indices,             \
                                                    i64 n_values, i64 n_vars, u64* sums,         \
                                                    u64* squares_high, u64* squares_low,         \
                                                    u64* first_bad) {                            \
        count_moments(data, indices, n_values, n_vars, sums, squares_high, squares_low,          \
                      first_bad);                                                                \
    }
#define COUNT_KERNELS(name, T)                                                                   \
    COUNT_MOMENTS_KERNEL(name##_int32, T, i32)                                                   \
    COUNT_MOMENTS_KERNEL(name##_int64, T, i64)                                                   \
    extern "C" __global__ void pooled_sums_##name(const T* data, const i64* order,               \
                                                  const i64* bounds, i64 n_places,               \
                                                  u64* first_bad, i32* out) {                    \
        pooled_counts(data, order, bounds, n_places, first_bad, out);                            \
    }
#define FRACTION_KERNELS(name, T)                                                                \
    extern "C" __global__ void value_moments_##name(const T* data, const i64* order,             \
                                                    const i64* bounds, i64 n_vars, double* sums, \
                                                    double* squares) {                           \
        value_moments(data, order, bounds, n_vars, sums, squares);                               \
    }                                                                                            \
    extern "C" __global__ void pooled_sums_##name(const T* data, const i64* order,               \
                                                  const i64* bounds, i64 n_places,               \
                                                  u64* first_bad, T* out) {                      \
        pooled_values(data, order, bounds, n_places, out);                                       \
    }
#define PLACE_KERNEL(name, I)                                                                    \
    extern "C" __global__ void pooled_places_##name(const I* indices, const i64* indptr,         \
                                                    i64 n_rows, const i64* group, i64 n_vars,    \
                                                    u32 threads_of_row, i64* out) {              \
        pooled_places(indices, indptr, n_rows, group, n_vars, threads_of_row, out);              \
    }

COUNT_KERNELS(uint8, u8)
COUNT_KERNELS(uint16, u16)
COUNT_KERNELS(uint32, u32)
COUNT_KERNELS(int32, i32)
COUNT_KERNELS(int64, i64)
FRACTION_KERNELS(float32, float)
FRACTION_KERNELS(float64, double)
PLACE_KERNEL(int32, i32)
PLACE_KERNEL(int64, i64)
