// Colours changed in optical density: twin of kernels/_reference.py.
#include "scalars.cuh"

// All channels of a pixel are read before one is written: `out` may be `tiles`.
extern "C" __global__ void change_stains_uint8(const u8* tiles, u32 plane_size, const i32* factors,
                                               const i32* densities, const u8* samples,
                                               i32 last, u8* out) {
    const u64 tile = (u64)blockIdx.x * 3 * plane_size;
    const i32* changes = factors + (u64)blockIdx.x * 12;
    FOR_EACH_IN_PLANE(i, plane_size) {
        i32 density[3];
        for (u32 c = 0; c < 3; ++c) density[c] = densities[tiles[tile + (u64)c * plane_size + i]];
        for (u32 c = 0; c < 3; ++c) {
            const i32* of_channel = changes + 4 * c;
            const i32 total = of_channel[0] * density[0] + of_channel[1] * density[1] +
                              of_channel[2] * density[2] + of_channel[3] * 4096 + 2048;
            const i32 changed = total >> 12;
            out[tile + (u64)c * plane_size + i] =
                samples[changed < 0 ? 0 : changed > last ? last : changed];
        }
    }
}
