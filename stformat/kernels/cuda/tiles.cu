// Tiles cut, assembled and resampled, pyramid levels halved: twins of kernels/_reference.py.
#include "scalars.cuh"

// A window further out than this is outside any image.
static const i64 FAR_OUT = 1LL << 40;

__device__ inline i64 clamped(i64 position) {
    return position < -FAR_OUT ? -FAR_OUT : position > FAR_OUT ? FAR_OUT : position;
}

// 16 bytes from any address, by the aligned words that hold them. A word that holds none of them is
// not read, so that nothing beyond the memory of an array is.
__device__ inline void load_16_bytes(const void* source, u32* words) {
    const u32 offset = (u64)source & 3;
    const u32* aligned = (const u32*)((const u8*)source - offset);
    u32 low = aligned[0];
    for (int k = 0; k < 4; ++k) {
        const u32 high = k < 3 || offset != 0 ? aligned[k + 1] : 0;
        words[k] = (u32)((((u64)high << 32) | low) >> (8 * offset));
        low = high;
    }
}

template <class T>
__device__ inline u32 sample_of(const u32* words, int k) {
    const int in_word = 4 / sizeof(T);
    return (words[k / in_word] >> (8 * sizeof(T) * (k % in_word))) & (u32)(T)~(T)0;
}

template <class T>
struct Image {
    const T* samples;
    i64 row_stride, height, width;  // of one channel, in samples
};

// Fill a tile with the window of an image at (left, top); what lies outside takes a value or, where
// FILLS is false, is left as it is.
template <class T, bool FILLS>
__device__ inline void move_window(Image<T> image, i64 left, i64 top, u32 tile_px, T fill, T* tile) {
    const u32 n_samples = 16 / sizeof(T);
    const u32 n_vectors = (tile_px + n_samples - 1) / n_samples;
    FOR_EACH_IN_PLANE(i, tile_px * n_vectors) {
        const u32 row = i / n_vectors, col = (i - row * n_vectors) * n_samples;
        const i64 y = top + row, x = left + col;
        const bool has_row = y >= 0 && y < image.height;
        T* target = tile + (u64)row * tile_px + col;
        const T* source = image.samples + y * image.row_stride + x;
        if (has_row && x >= 0 && x + n_samples <= image.width && col + n_samples <= tile_px) {
            Vector<u32, 4> words;
            load_16_bytes(source, words.values);
            if (is_aligned<T, 16 / sizeof(T)>(target)) {
                *(Vector<u32, 4>*)target = words;
            } else {
                for (int k = 0; k < (int)n_samples; ++k) target[k] = (T)sample_of<T>(words.values, k);
            }
            continue;
        }
        for (u32 k = 0; k < n_samples && col + k < tile_px; ++k) {
            const bool is_inside = has_row && x + k >= 0 && x + k < image.width;
            if (is_inside) target[k] = source[k];
            if (FILLS && !is_inside) target[k] = fill;
        }
    }
}

template <class T>
__device__ void gather(const T* image, i64 channel_stride, i64 row_stride, i64 height, i64 width,
                       const i64* windows, u32 n_c, u32 tile_px, u32 fill, T* out) {
    const u32 tile = blockIdx.x / n_c, c = blockIdx.x - tile * n_c;
    move_window<T, true>({image + c * channel_stride, row_stride, height, width},
                         clamped(windows[2 * (u64)tile]), clamped(windows[2 * (u64)tile + 1]),
                         tile_px, (T)fill, out + (u64)blockIdx.x * tile_px * tile_px);
}

template <class T>
__device__ void scatter(const T* chunk, i64 channel_stride, i64 row_stride, i64 height, i64 width,
                        i64 left, i64 top, const i64* windows, const i64* which, u32 n_c,
                        u32 tile_px, T* out) {
    const u32 window = blockIdx.x / n_c, c = blockIdx.x - window * n_c;
    const u64 plane = (u64)which[window] * n_c + c;
    move_window<T, false>({chunk + c * channel_stride, row_stride, height, width},
                          clamped(windows[2 * (u64)window]) - left,
                          clamped(windows[2 * (u64)window + 1]) - top, tile_px, (T)0,
                          out + plane * tile_px * tile_px);
}

template <class T>
__device__ void gather_strided(const T* pixels, const i64* starts, const i64* strides,
                               const i64* places, u32 n_c, u32 tile_px, T* out) {
    const u32 window = blockIdx.x / n_c, c = blockIdx.x - window * n_c;
    const T* source = pixels + starts[window] + c * strides[2 * (u64)window];
    const u64 plane = (u64)places[window] * n_c + c;
    move_window<T, false>({source, strides[2 * (u64)window + 1], tile_px, tile_px}, 0, 0, tile_px,
                          (T)0, out + plane * tile_px * tile_px);
}

template <class T>
__device__ void downsample(const T* image, i64 channel_stride, i64 row_stride, u32 height,
                           u32 width, T* out) {
    const int n_samples = 16 / sizeof(T), n_means = n_samples / 2;
    const u32 out_height = (height + 1) / 2, out_width = (width + 1) / 2;
    const u32 n_vectors = (out_width + n_means - 1) / n_means;
    FOR_EACH_IN_PLANE(i, out_height * n_vectors) {
        const u32 row = i / n_vectors, col = (i - row * n_vectors) * n_means;
        const T* upper = image + blockIdx.x * channel_stride + 2 * (i64)row * row_stride;
        // Repeating the last row or column of an odd edge gives the mean of the pixels that exist.
        const T* lower = 2 * row + 1 < height ? upper + row_stride : upper;
        T* target = out + ((u64)blockIdx.x * out_height + row) * out_width + col;
        if (2 * (u64)col + n_samples <= width) {
            u32 above[4], below[4];
            load_16_bytes(upper + 2 * (u64)col, above);
            load_16_bytes(lower + 2 * (u64)col, below);
            Vector<T, n_means> means;
            for (int k = 0; k < n_means; ++k) {
                const u32 total = sample_of<T>(above, 2 * k) + sample_of<T>(above, 2 * k + 1) +
                                  sample_of<T>(below, 2 * k) + sample_of<T>(below, 2 * k + 1);
                means.values[k] = (T)((total + 2) >> 2);
            }
            if (is_aligned<T, n_means>(target)) {
                *(Vector<T, n_means>*)target = means;
            } else {
                for (int k = 0; k < n_means; ++k) target[k] = means.values[k];
            }
            continue;
        }
        for (u32 k = 0; k < (u32)n_means && col + k < out_width; ++k) {
            const u32 left = 2 * (col + k), right = left + 1 < width ? left + 1 : left;
            const u32 total = (u32)upper[left] + upper[right] + lower[left] + lower[right];
            target[k] = (T)((total + 2) >> 2);
        }
    }
}

// Overlap of a source pixel with [start, stop), in 1/65536 pixel.
__device__ inline u32 overlap(u64 pixel, u64 start, u64 stop) {
    const u64 first = pixel << 16, last = (pixel + 1) << 16;
    return (u32)((stop < last ? stop : last) - (start > first ? start : first));
}

// Divide by an area below 2**46, rounding half up. The quotient in float64 is off by one at most,
// since it is below 2**17 and its relative error below 2**-50; the remainder says which way.
__device__ inline u32 rounded_quotient(u64 total, i64 area, double reciprocal) {
    const i64 dividend = (i64)total + area / 2;
    i64 quotient = (i64)((double)dividend * reciprocal);
    const i64 remainder = dividend - quotient * area;
    quotient += (i64)(remainder >= area) - (i64)(remainder < 0);
    return (u32)quotient;
}

// The sum of a row's overlaps is the step, at most 2**23: with 8 bits a sample it stays in 32 bits.
template <class T> struct RowSum { typedef u64 type; };
template <> struct RowSum<u8> { typedef u32 type; };

template <class T>
struct Coarser {
    u64 step;
    double reciprocal;  // of the area step * step

    __device__ u32 operator()(const T* plane, u32 edge, u32 row, u32 col) const {
        const u64 top = row * step, left = col * step;
        u64 total = 0;
        for (u64 y = top >> 16; (y << 16) < top + step; ++y) {
            typename RowSum<T>::type line = 0;
            for (u64 x = left >> 16; (x << 16) < left + step; ++x) {
                line += (typename RowSum<T>::type)overlap(x, left, left + step) * plane[y * edge + x];
            }
            total += (u64)overlap(y, top, top + step) * line;
        }
        return rounded_quotient(total, (i64)(step * step), reciprocal);
    }
};

template <class T>
struct Finer {
    u64 step;
    double reciprocal;  // not used

    __device__ u32 operator()(const T* plane, u32 edge, u32 row, u32 col) const {
        const i64 shift = ((i64)step - 65536) >> 1;
        const i64 v = row * (i64)step + shift, u = col * (i64)step + shift;
        // The source begins with a margin pixel: position 0 is its second.
        const T* upper = plane + ((v >> 16) + 1) * (i64)edge + ((u >> 16) + 1);
        const T* lower = upper + edge;
        const u32 down = (u32)(v & 65535) >> 8, right = (u32)(u & 65535) >> 8;
        const u32 above = (256 - right) * upper[0] + right * upper[1];
        const u32 below = (256 - right) * lower[0] + right * lower[1];
        return ((256 - down) * above + down * below + 32768) >> 16;
    }
};

template <class T, class Value>
__device__ inline void resample(const T* source, u32 edge, u32 tile_px, Value value, T* out) {
    const T* plane = source + (u64)blockIdx.x * edge * edge;
    const u32 n_vectors = (tile_px + 3) / 4;
    FOR_EACH_IN_PLANE(i, tile_px * n_vectors) {
        const u32 row = i / n_vectors, col = (i - row * n_vectors) * 4;
        T* target = out + ((u64)blockIdx.x * tile_px + row) * tile_px + col;
        if (col + 4 <= tile_px && is_aligned<T, 4>(target)) {
            Vector<T, 4> four;
            for (int k = 0; k < 4; ++k) four.values[k] = (T)value(plane, edge, row, col + k);
            *(Vector<T, 4>*)target = four;
            continue;
        }
        for (u32 k = 0; k < 4 && col + k < tile_px; ++k) {
            target[k] = (T)value(plane, edge, row, col + k);
        }
    }
}

#define TILE_KERNELS(name, T)                                                                     \
    extern "C" __global__ void gather_tiles_##name(                                               \
        const T* image, i64 channel_stride, i64 row_stride, i64 height, i64 width,                \
        const i64* windows, u32 n_c, u32 tile_px, u32 fill, T* out) {                             \
        gather(image, channel_stride, row_stride, height, width, windows, n_c, tile_px, fill,     \
               out);                                                                              \
    }                                                                                             \
    extern "C" __global__ void scatter_chunk_##name(                                              \
        const T* chunk, i64 channel_stride, i64 row_stride, i64 height, i64 width, i64 left,      \
        i64 top, const i64* windows, const i64* which, u32 n_c, u32 tile_px, T* out) {            \
        scatter(chunk, channel_stride, row_stride, height, width, left, top, windows, which, n_c, \
                tile_px, out);                                                                    \
    }                                                                                             \
    extern "C" __global__ void gather_windows_##name(                                             \
        const T* pixels, const i64* starts, const i64* strides, const i64* places, u32 n_c,       \
        u32 tile_px, T* out) {                                                                    \
        gather_strided(pixels, starts, strides, places, n_c, tile_px, out);                       \
    }                                                                                             \
    extern "C" __global__ void downsample_2x2_##name(const T* image, i64 channel_stride,          \
                                                     i64 row_stride, u32 height, u32 width,       \
                                                     T* out) {                                    \
        downsample(image, channel_stride, row_stride, height, width, out);                        \
    }                                                                                             \
    extern "C" __global__ void resample_coarser_##name(                                           \
        const T* source, u32 edge, u32 tile_px, u64 step, double reciprocal, T* out) {            \
        resample(source, edge, tile_px, Coarser<T>{step, reciprocal}, out);                       \
    }                                                                                             \
    extern "C" __global__ void resample_finer_##name(                                             \
        const T* source, u32 edge, u32 tile_px, u64 step, double reciprocal, T* out) {            \
        resample(source, edge, tile_px, Finer<T>{step, reciprocal}, out);                         \
    }

TILE_KERNELS(uint8, u8)
TILE_KERNELS(uint16, u16)
