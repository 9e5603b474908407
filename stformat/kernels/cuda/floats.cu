// Tiles to floats, mirrored and turned: twins of kernels/_reference.py.
#include "scalars.cuh"

__device__ inline void convert(float value, float* target) { *target = value; }

// The bits of the float16 nearest to a float32, ties to even; there is no NaN. Of a normal half, the
// 13 bits too many are rounded off and the exponent's bias falls from 127 to 15. Below, adding 1/2
// leaves the multiple of 2**-24 in the low bits, rounded by the addition.
__device__ inline void convert(float value, u16* target) {
    const u32 bits = __float_as_uint(value), magnitude = bits & 0x7FFFFFFFu;
    u32 half;
    if (magnitude >= 0x38800000u) {
        half = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
        half = half < 0x7C00u ? half : 0x7C00u;
    } else {
        half = __float_as_uint(sum_of(__uint_as_float(magnitude), 0.5f)) - (126u << 23);
    }
    *target = (u16)(half | ((bits & 0x80000000u) >> 16));
}

// Each thread takes a patch of 4 x 4 pixels, so that rows and columns are both read in pieces.
template <class T, class F>
__device__ inline void to_float(const T* tiles, u32 n_c, u32 height, u32 width,
                                const float* factors, const float* offsets, const u8* flips,
                                const u8* turns, F* out) {
    const u32 tile = blockIdx.x / n_c, c = blockIdx.x - tile * n_c;
    const u32 turn = turns[tile];
    // A quarter turn reads columns for rows, the second half of a turn begins at the far end.
    const bool is_turned = turn & 1;
    const bool is_mirrored = (flips[2 * (u64)tile] != 0) != (turn == 1 || turn == 2);
    const bool is_upended = (flips[2 * (u64)tile + 1] != 0) != (turn == 2 || turn == 3);
    const float factor = factors[c], offset = offsets[c];
    const u64 plane = (u64)blockIdx.x * height * width;
    const u32 n_across = (width + 3) / 4;
    FOR_EACH_IN_PLANE(i, (height + 3) / 4 * n_across) {
        const u32 row = i / n_across * 4, col = i % n_across * 4;
        const u32 first_row = is_turned ? col : row, first_col = is_turned ? row : col;
        const bool is_whole = first_col + 4 <= width;
        T patch[4][4];
        for (u32 r = 0; r < 4; ++r) {
            const u32 y = first_row + r < height ? first_row + r : height - 1;
            const T* line = tiles + plane + (u64)(is_upended ? height - 1 - y : y) * width;
            const T* four = is_mirrored ? line + width - 4 - first_col : line + first_col;
            if (is_whole && is_aligned<T, 4>(four)) {
                const Vector<T, 4> pixels = *(const Vector<T, 4>*)four;
                for (int k = 0; k < 4; ++k) {
                    patch[r][k] = is_mirrored ? pixels.values[3 - k] : pixels.values[k];
                }
                continue;
            }
            for (u32 k = 0; k < 4; ++k) {
                const u32 x = first_col + k < width ? first_col + k : width - 1;
                patch[r][k] = line[is_mirrored ? width - 1 - x : x];
            }
        }
        for (u32 r = 0; r < 4 && row + r < height; ++r) {
            Vector<F, 4> values;
            for (u32 k = 0; k < 4; ++k) {
                const float pixel = (float)(is_turned ? patch[k][r] : patch[r][k]);
                convert(sum_of(product(pixel, factor), offset), &values.values[k]);
            }
            F* target = out + plane + (u64)(row + r) * width + col;
            if (col + 4 <= width && is_aligned<F, 4>(target)) {
                *(Vector<F, 4>*)target = values;
            } else {
                for (u32 k = 0; k < 4 && col + k < width; ++k) target[k] = values.values[k];
            }
        }
    }
}

#define FLOAT_KERNEL(name, T, F)                                                                \
    extern "C" __global__ void name(const T* tiles, u32 n_c, u32 height, u32 width,             \
                                    const float* factors, const float* offsets,                 \
                                    const u8* flips, const u8* turns, F* out) {                 \
        to_float(tiles, n_c, height, width, factors, offsets, flips, turns, out);               \
    }

FLOAT_KERNEL(tiles_to_float_uint8, u8, float)
FLOAT_KERNEL(tiles_to_float_uint16, u16, float)
FLOAT_KERNEL(tiles_to_half_uint8, u8, u16)
FLOAT_KERNEL(tiles_to_half_uint16, u16, u16)
