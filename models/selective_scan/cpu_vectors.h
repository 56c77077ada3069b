/* Vectors of LANES floats, as wide as the instruction set that this file is compiled for, and functions on them. */
#include <stdint.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif
#define EACH_LANE _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++)
#define LOG2_E 1.44269504088896341f
#define LN_2 0.693147180559945309f

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES))); /* bfloat16 */

#define LANE_NUMBERS ((ivec)FIRST_NUMBERS)
#if LANES == 16
#define FIRST_NUMBERS {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
#elif LANES == 8
#define FIRST_NUMBERS {0, 1, 2, 3, 4, 5, 6, 7}
#else
#define FIRST_NUMBERS {0, 1, 2, 3}
#endif

static inline vec splat(float x) { return x - (vec){0}; }
static inline vec pick(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }
#if defined(__AVX512F__)
static inline vec vmax(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
static inline vec vmin(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
static inline ivec imax(ivec a, ivec b) { return (ivec)_mm512_max_epi32((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__)
static inline vec vmax(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
static inline vec vmin(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
static inline ivec imax(ivec a, ivec b) { return (ivec)_mm256_max_epi32((__m256i)a, (__m256i)b); }
#else
static inline vec vmax(vec a, vec b) { return pick(a > b, a, b); }
static inline vec vmin(vec a, vec b) { return pick(a < b, a, b); }
static inline ivec imax(ivec a, ivec b) { return (ivec)pick(a > b, (vec)a, (vec)b); }
#endif

/* 2^(x * y) for -2^22 < x * y <= 127. Relative error 2e-7 where multiply-adds are fused, else up to 3e-6 at the ends of
 * the range, as x * y is rounded. Below -125 it stays at 2^-125 times 1 to sqrt(2): zero for our purposes, but never
 * denormal. 2^(n + f) = 2^n * 2^f, where n comes from rounding by adding 1.5 * 2^23 and is added to the exponent bits of
 * 2^f, a polynomial (minimax for the relative error, with 2^0 = 1 exactly). */
static inline vec exp2_of_product(vec x, vec y) {
    const float magic = 12582912.0f;
    const int32_t magic_bits = 0x4b400000;
    vec shifted = x * y + magic;
    vec f = x * y - (shifted - magic);
    vec p = f * 1.3264727e-3f + 9.6715128e-3f;
    p = p * f + 5.5507337e-2f;
    p = p * f + 2.4022242e-1f;
    p = p * f + 6.9314698e-1f;
    p = p * f + 1.0f;
    return (vec)((ivec)p + (imax((ivec)shifted, (ivec){0} + (magic_bits - 125)) << 23));
}

static inline vec exp_of_minus_abs(vec x) {
    const vec minus_abs = (vec)((uvec)x | 0x80000000u);
    return exp2_of_product(vmax(minus_abs, splat(-100.0f)), splat(LOG2_E));
}

/* log(1 + e) for 0 <= e <= 1 with full relative precision: 2 atanh(e / (2 + e)). */
static inline vec log1p_vec(vec e) {
    vec s = e / (e + 2.0f), s2 = s * s;
    vec p = s2 * (1.0f / 13) + 1.0f / 11;
    p = p * s2 + 1.0f / 9;
    p = p * s2 + 1.0f / 7;
    p = p * s2 + 1.0f / 5;
    p = p * s2 + 1.0f / 3;
    return 2.0f * s * (p * s2 + 1.0f);
}

/* 1 / (1 + exp(-x)), given e = exp(-|x|). */
static inline vec sigmoid(vec x, vec e) { return pick(x >= 0.0f, splat(1.0f), e) / (e + 1.0f); }

/* Transposes a matrix of LANES rows: at each step, squares of half the side change places across the diagonal. */
#define EXCHANGE(side)                                                        \
    EACH_LANE {                                                               \
        if (i & side) continue;                                               \
        const vec a = m[i], b = m[i + side];                                  \
        m[i] = __builtin_shuffle(a, b, UPPER(side));                          \
        m[i + side] = __builtin_shuffle(a, b, UPPER(side) + side);            \
    }
#define UPPER(side) (LANE_NUMBERS + (((LANE_NUMBERS & side) != 0) & (LANES - side)))
static inline __attribute__((always_inline)) void transpose(vec m[LANES]) {
    EXCHANGE(1)
    EXCHANGE(2)
#if LANES > 4
    EXCHANGE(4)
#endif
#if LANES > 8
    EXCHANGE(8)
#endif
}

static inline float sum_lanes(vec x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

static inline float from_bf16(uint16_t x) {
    const union { uint32_t bits; float value; } wide = {(uint32_t)x << 16};
    return wide.value;
}

static inline uvec to_bf16(vec x) { /* round to nearest even; NaN stays NaN */
    uvec bits = (uvec)x, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uvec is_nan = (uvec)(x != x);
    return (rounded & ~is_nan) | (0x7fc0u & is_nan);
}
