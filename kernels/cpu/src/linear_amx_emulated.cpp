// The kernels for AMX with tiles in memory, for tests on machines without AMX; far too slow for anything else. What the
// processor faults on, tiles of shapes that do not fit and tiles without a shape, traps here too.
#include "linear_amx_body.h"

namespace russet {
namespace {

struct EmulatedTile {
    int rows, row_bytes;
    uint8_t bytes[16][64];
};

thread_local EmulatedTile emulated[8];

inline void fault_unless(bool holds) {
    if (!holds) __builtin_trap();
}

struct EmulatedTiles {
    static void configure(const TileConfig& config) {
        fault_unless(config.palette == 1 && config.start_row == 0);
        for (uint8_t byte : config.reserved) fault_unless(byte == 0);
        for (int tile = 0; tile < 16; ++tile) {
            const int rows = config.rows[tile], row_bytes = config.row_bytes[tile];
            fault_unless(rows <= (tile < 8 ? 16 : 0) && row_bytes <= (tile < 8 ? 64 : 0));
            fault_unless((rows == 0) == (row_bytes == 0));
            if (tile < 8) emulated[tile] = {rows, row_bytes, {}};
        }
    }
    static void release() { __builtin_memset(emulated, 0, sizeof(emulated)); }
    template <int tile>
    static void zero() {
        fault_unless(emulated[tile].rows > 0);
        __builtin_memset(emulated[tile].bytes, 0, sizeof(emulated[tile].bytes));
    }
    template <int tile>
    static void load(const void* rows, ptrdiff_t stride) {
        EmulatedTile& to = emulated[tile];
        zero<tile>();
        for (int row = 0; row < to.rows; ++row) {
            __builtin_memcpy(to.bytes[row], static_cast<const uint8_t*>(rows) + row * stride, to.row_bytes);
        }
    }
    template <int tile>
    static void store(void* rows, ptrdiff_t stride) {
        const EmulatedTile& from = emulated[tile];
        fault_unless(from.rows > 0);
        for (int row = 0; row < from.rows; ++row) {
            __builtin_memcpy(static_cast<uint8_t*>(rows) + row * stride, from.bytes[row], from.row_bytes);
        }
    }
    template <int products, int inputs, int weights>
    static void multiply() {
        static_assert(products != inputs && products != weights && inputs != weights);
        EmulatedTile& c = emulated[products];
        const EmulatedTile &a = emulated[inputs], &b = emulated[weights];
        fault_unless(c.rows > 0 && a.rows == c.rows && b.row_bytes == c.row_bytes);
        fault_unless(a.row_bytes % 4 == 0 && b.row_bytes % 4 == 0 && a.row_bytes / 4 == b.rows);
        for (int m = 0; m < c.rows; ++m) {
            int32_t sums[16];
            __builtin_memcpy(sums, c.bytes[m], sizeof(sums));
            for (int k = 0; k < a.row_bytes; ++k) {
                const int32_t input = static_cast<int8_t>(a.bytes[m][k]);
                for (int n = 0; n < c.row_bytes / 4; ++n) sums[n] += input * b.bytes[k / 4][4 * n + k % 4];
            }
            __builtin_memcpy(c.bytes[m], sums, sizeof(sums));
        }
    }
};

}  // namespace

const LinearKernels& linear_kernels_amx_emulated() {
    static const LinearKernels kernels{linear_kernels_avx512().quantize, multiply_amx<EmulatedTiles>};
    return kernels;
}

}  // namespace russet
