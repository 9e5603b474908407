// Sparse counts summed, normalised and made dense: twins of kernels/_reference.py.
#include "scalars.cuh"

// Lanes of a row's sum that one thread adds up, and threads that share a row.
static const int LANES_OF_THREAD = 8;
static const int THREADS_OF_SUM = 8;

// log(1 + value) to 2e-13 of itself, NaN where value is negative or not finite: the polynomial and
// the order of operations are those of the compiled twin for CPUs.
__device__ inline double log1p_of(double value) {
    const u64 sqrt_half = 0x3FE6A09E00000000ull, one = 0x3FF0000000000000ull;
    const u64 shifted = (u64)__double_as_longlong(1.0 + value) + (one - sqrt_half);
    const u64 mantissa = (shifted & 0x000FFFFFFFFFFFFFull) + sqrt_half;
    const double m = __longlong_as_double((i64)mantissa);
    const u64 biased = (shifted >> 52) | 0x4330000000000000ull;
    const double exponent = __longlong_as_double((i64)biased) - (4503599627370496.0 + 1023.0);
    const double g = exponent == 0.0 ? value : m - 1.0;
    const double s = g / (2.0 + g);
    const double t = s * s;
    double p = fma(t, 0.1936304304875125, 0.22191380789044335);
    p = fma(t, p, 0.2857175485162511);
    p = fma(t, p, 0.39999998795791064);
    p = fma(t, p, 0.6666666666737623);
    const double log = fma(exponent, 0.6931471805599453, s * fma(t, p, 2.0));
    const bool is_count = value >= 0.0 && value < __longlong_as_double(0x7FF0000000000000ll);
    return is_count ? log : __longlong_as_double(0x7FF8000000000000ll);
}

// Eight of the 64 partial sums of a row a thread, halved in the order of the definition until one of
// each thread is left.
template <class T>
__device__ inline void partial_sums(const T* data, const i64* starts, const i64* stops, i64 n_rows,
                                    double* partials) {
    FOR_EACH(i, n_rows * THREADS_OF_SUM) {
        const i64 row = i / THREADS_OF_SUM, first = i % THREADS_OF_SUM;
        double lanes[LANES_OF_THREAD] = {0, 0, 0, 0, 0, 0, 0, 0};
        for (i64 k = starts[row] + first; k < stops[row]; k += LANES_OF_THREAD * THREADS_OF_SUM) {
            for (int lane = 0; lane < LANES_OF_THREAD; ++lane) {
                const i64 position = k + lane * THREADS_OF_SUM;
                if (position < stops[row]) lanes[lane] += widened(data[position]);
            }
        }
        for (int half = LANES_OF_THREAD / 2; half > 0; half /= 2) {
            for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
        }
        partials[i] = lanes[0];
    }
}

extern "C" __global__ void row_totals(const double* partials, i64 n_rows, double* out) {
    FOR_EACH(row, n_rows) {
        double lanes[THREADS_OF_SUM];
        for (int lane = 0; lane < THREADS_OF_SUM; ++lane) {
            lanes[lane] = partials[row * THREADS_OF_SUM + lane];
        }
        for (int half = THREADS_OF_SUM / 2; half > 0; half /= 2) {
            for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
        }
        out[row] = lanes[0];
    }
}

extern "C" __global__ void row_scales(const double* totals, i64 n_rows, double target_sum,
                                      double* out) {
    FOR_EACH(row, n_rows) out[row] = totals[row] != 0.0 ? target_sum / totals[row] : 0.0;
}

template <class T>
__device__ inline void normalize(const T* data, const i64* indptr, i64 n_rows, const double* scales,
                                 u32 threads_of_row, float* out) {
    FOR_EACH(i, n_rows * threads_of_row) {
        const i64 row = i / threads_of_row, stop = indptr[row + 1];
        const double scale = scales[row];
        for (i64 k = indptr[row] + i % threads_of_row; k < stop; k += threads_of_row) {
            round_to(log1p_of(widened(data[k]) * scale), out + k);
        }
    }
}

// `first_bad` takes the position of the first column index that has no gene.
template <class T, class I>
__device__ inline void densify(const T* data, const I* indices, const i64* starts, const i64* stops,
                               i64 n_rows, const double* scales, const i32* gene_map, i64 n_vars,
                               i64 n_out, u32 takes_log1p, u32 threads_of_row, u64* first_bad,
                               float* out) {
    FOR_EACH(i, n_rows * threads_of_row) {
        const i64 row = i / threads_of_row, stop = stops[row];
        const double scale = scales[row];
        for (i64 k = starts[row] + i % threads_of_row; k < stop; k += threads_of_row) {
            const i64 column = indices[k];
            if (column < 0 || column >= n_vars) {
                atomicMin(first_bad, (u64)k);
                continue;
            }
            const i64 gene = gene_map[column];
            if (gene < 0) continue;
            const double value = widened(data[k]) * scale;
            round_to(takes_log1p ? log1p_of(value) : value, out + row * n_out + gene);
        }
    }
}

#define VALUE_KERNELS(name, T)                                                               \
    extern "C" __global__ void partial_sums_##name(const T* data, const i64* starts,         \
                                                   const i64* stops, i64 n_rows,             \
                                                   double* partials) {                       \
        partial_sums(data, starts, stops, n_rows, partials);                                 \
    }                                                                                        \
    extern "C" __global__ void normalize_log1p_##name(const T* data, const i64* indptr,      \
                                                      i64 n_rows, const double* scales,      \
                                                      u32 threads_of_row, float* out) {      \
        normalize(data, indptr, n_rows, scales, threads_of_row, out);                        \
    }                                                                                        \
    DENSIFY_KERNEL(name##_int32, T, i32)                                                     \
    DENSIFY_KERNEL(name##_int64, T, i64)

#define DENSIFY_KERNEL(name, T, I)                                                           \
    extern "C" __global__ void densify_##name(                                               \
        const T* data, const I* indices, const i64* starts, const i64* stops, i64 n_rows,    \
        const double* scales, const i32* gene_map, i64 n_vars, i64 n_out, u32 takes_log1p,   \
        u32 threads_of_row, u64* first_bad, float* out) {                                    \
        densify(data, indices, starts, stops, n_rows, scales, gene_map, n_vars, n_out,       \
                takes_log1p, threads_of_row, first_bad, out);                                \
    }

VALUE_KERNELS(uint8, u8)
VALUE_KERNELS(uint16, u16)
VALUE_KERNELS(uint32, u32)
VALUE_KERNELS(int32, i32)
VALUE_KERNELS(int64, i64)
VALUE_KERNELS(float32, float)
VALUE_KERNELS(float64, double)
