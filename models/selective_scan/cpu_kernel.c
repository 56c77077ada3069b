/* Selective scan on CPUs, forward and backward; cpu.py calls it, reference.py holds the formulas.
 *
 * Plain C with GCC/Clang vector extensions. build.py compiles this file once per instruction set (SUFFIX is appended to
 * the exported names) into one library and takes the first of them that supported() accepts.
 *
 * - A vector holds LANES neighbouring channels, so a scan step has no sum across lanes.
 * - A task is one batch item x one part of a group's channels. It walks over the sequence in chunks of CHUNK steps and,
 *   per chunk, over its blocks of LANES channels. Tasks depend on the shape alone and sum in a fixed order, so the result
 *   does not depend on the number of threads.
 * - Tiles (CHUNK x LANES floats) decouple the arithmetic from strides, dtype and ragged edges; a reversed scan is a
 *   negative stride. All arithmetic is float32.
 * - The forward pass keeps the state at the start of each chunk; the backward pass recomputes a chunk from it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
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
#define CHUNK 16
#define UNROLL 4      /* states held in registers at a time; the state size is padded to a multiple of it */
#define UNROLLED _Pragma("GCC unroll 4")
#define MAX_STATE 64
#define LOG2_E 1.44269504088896341f
#define LN_2 0.693147180559945309f

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES)));
typedef vec tile[CHUNK];
typedef float coefficients[CHUNK][MAX_STATE]; /* B or C of one chunk */

#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define EXPORT(name) PASTE(name, SUFFIX)

struct view { /* (batch, channel, time); strides in elements; data == NULL where the tensor is absent */
    void *data;
    int64_t batch, channel, time, is_bf16;
};
struct small_view { /* float32 (batch, group, state, time) */
    float *data;
    int64_t batch, group, state, time;
};
struct scan { /* filled in by cpu.py */
    int64_t batch, dim, length, state, groups, parts, blocks; /* parts per group, blocks of LANES channels per part */
    int64_t softplus, reverse, keep_states, threads;
    struct view u, delta, z, out, grad_out, grad_u, grad_delta, grad_z;
    struct small_view B, C;
    const float *A, *D, *bias;        /* (dim, state), (dim,), (dim,) */
    float *states;                    /* (tasks, chunks or 1, blocks, padded state, LANES) */
    struct small_view grad_B, grad_C; /* those of part 0, which get the sums over the parts */
    int64_t part_stride;              /* size of one part's gradients of B and C together */
    float *grad_parameters;           /* (batch, dim, state + 2): A, D, bias; [0] gets the sum over the batch */
};
struct task { int64_t batch, group, part, channel, channels, padded_state; }; /* first channel, number of channels */

/* ---------------------------------------------------------------- arithmetic on vectors */

static inline vec splat(float x) { return x - (vec){0}; }
static inline vec pick(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }
#if defined(__AVX512F__)
static inline vec vmax(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
static inline vec vmin(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__)
static inline vec vmax(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
static inline vec vmin(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#else
static inline vec vmax(vec a, vec b) { return pick(a > b, a, b); }
static inline vec vmin(vec a, vec b) { return pick(a < b, a, b); }
#endif

/* 2^x for x <= 127, relative error 2e-7; below -125 it stays at 2^-125 (zero for our purposes, never denormal).
 * 2^x = 2^n * 2^f, n = round(x) by adding 1.5 * 2^23, 2^f by a polynomial, 2^n added to the exponent bits. */
static inline vec exp2_vec(vec x) {
    const float magic = 12582912.0f;
    x = vmax(x, splat(-125.0f));
    vec shifted = x + magic;
    vec f = x - (shifted - magic);
    vec p = f * 1.3264727e-3f + 9.6715128e-3f; /* minimax for the relative error, with 2^0 = 1 exactly */
    p = p * f + 5.5507337e-2f;
    p = p * f + 2.4022242e-1f;
    p = p * f + 6.9314698e-1f;
    p = p * f + 1.0f;
    return (vec)((ivec)p + ((ivec)shifted << 23));
}

static inline vec exp_of_minus_abs(vec x) { return exp2_vec((vec)((uvec)x | 0x80000000u) * LOG2_E); }

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

static inline vec sigmoid(vec x, vec e) { /* e = exp(-|x|) */ return pick(x >= 0.0f, splat(1.0f), e) / (e + 1.0f); }

static inline float sum_lanes(vec x) { float s = 0; for (int i = 0; i < LANES; i++) s += x[i]; return s; }

/* ---------------------------------------------------------------- tiles */

static inline char *address(const struct view *v, int64_t batch, int64_t channel, int64_t time) {
    return (char *)v->data + (batch * v->batch + channel * v->channel + time * v->time) * (v->is_bf16 ? 2 : 4);
}

static inline float from_bf16(uint16_t x) { union { uint32_t bits; float value; } c = {(uint32_t)x << 16}; return c.value; }

static inline uvec to_bf16(vec x) { /* round to nearest even; NaN stays NaN */
    uvec bits = (uvec)x, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uvec is_nan = (uvec)(x != x);
    return (rounded & ~is_nan) | (0x7fc0u & is_nan);
}

/* Lanes beyond `lanes` are zero. */
static inline void load_tile(tile out, const struct view *v, int64_t batch, int64_t channel, int lanes, int64_t time, int steps) {
    for (int t = 0; t < steps; t++) {
        const char *row = address(v, batch, channel, time + t);
        vec x = {0};
        if (lanes == LANES && v->channel == 1) {
            if (v->is_bf16) {
                hvec half;
                memcpy(&half, row, sizeof half);
                x = (vec)(__builtin_convertvector(half, uvec) << 16);
            } else {
                memcpy(&x, row, sizeof x);
            }
        } else {
            for (int i = 0; i < lanes; i++)
                x[i] = v->is_bf16 ? from_bf16(((const uint16_t *)row)[i * v->channel]) : ((const float *)row)[i * v->channel];
        }
        out[t] = x;
    }
}

static inline void store_tile(const tile in, const struct view *v, int64_t batch, int64_t channel, int lanes, int64_t time, int steps) {
    for (int t = 0; t < steps; t++) {
        char *row = address(v, batch, channel, time + t);
        vec x = in[t];
        if (v->is_bf16) {
            uvec bits = to_bf16(x);
            for (int i = 0; i < lanes; i++) ((uint16_t *)row)[i * v->channel] = (uint16_t)bits[i];
        } else if (lanes == LANES && v->channel == 1) {
            memcpy(row, &x, sizeof x);
        } else {
            for (int i = 0; i < lanes; i++) ((float *)row)[i * v->channel] = x[i];
        }
    }
}

/* B or C of one chunk; padded states get 0. */
static void load_coefficients(coefficients out, const struct scan *s, const struct small_view *v, const struct task *k, int64_t time, int steps) {
    for (int t = 0; t < steps; t++) {
        const float *from = v->data + k->batch * v->batch + k->group * v->group + (time + t) * v->time;
        for (int n = 0; n < k->padded_state; n++) out[t][n] = n < s->state ? from[n * v->state] : 0.0f;
    }
}

/* ---------------------------------------------------------------- one block of channels */

struct block {
    int64_t channel; int lanes;
    vec D, bias, lowest, highest;     /* range of delta for which exp(delta * A) stays finite */
    vec a[MAX_STATE];                 /* A * log2(e) */
};

static void load_block(struct block *b, const struct scan *s, const struct task *k, int64_t index) {
    memset(b, 0, sizeof *b);
    b->channel = k->channel + index * LANES;
    b->lanes = k->channels - index * LANES < LANES ? (int)(k->channels - index * LANES) : LANES;
    vec largest = splat(1e-30f), smallest = splat(-1e-30f);
    for (int i = 0; i < b->lanes; i++) {
        const int64_t c = b->channel + i;
        if (s->D) b->D[i] = s->D[c];
        if (s->bias) b->bias[i] = s->bias[c];
        for (int n = 0; n < s->state; n++) b->a[n][i] = s->A[c * s->state + n] * LOG2_E;
    }
    for (int n = 0; n < s->state; n++) {
        largest = vmax(largest, b->a[n]);
        smallest = vmin(smallest, b->a[n]);
    }
    b->highest = 127.0f / largest;
    b->lowest = 127.0f / smallest;
}

/* Delta, Delta clamped for the exponential, Delta * u; `slope` (may be NULL) gets dDelta/ddelta. */
static inline void load_delta(const struct scan *s, const struct task *k, const struct block *b, int64_t time, int steps,
                              const tile u, tile delta, tile clamped, tile delta_u, vec *slope) {
    load_tile(delta, &s->delta, k->batch, b->channel, b->lanes, time, steps);
    for (int t = 0; t < steps; t++) {
        vec x = delta[t] + b->bias;
        if (s->softplus) {
            vec e = exp_of_minus_abs(x);
            if (slope) slope[t] = sigmoid(x, e);
            x = vmax(x, splat(0.0f)) + log1p_vec(e);
        } else if (slope) {
            slope[t] = splat(1.0f);
        }
        delta[t] = x;
        clamped[t] = vmin(vmax(x, b->lowest), b->highest);
        delta_u[t] = x * u[t];
    }
}

static inline int chunk_steps(const struct scan *s, int64_t chunk) {
    const int64_t left = s->length - chunk * CHUNK;
    return left < CHUNK ? (int)left : CHUNK;
}

static inline vec *state_at(const struct scan *s, const struct task *k, int64_t chunk, int64_t block) {
    const int64_t task = (k->batch * s->groups + k->group) * s->parts + k->part;
    const int64_t chunks = s->keep_states ? (s->length + CHUNK - 1) / CHUNK : 1;
    return (vec *)s->states + ((task * chunks + (s->keep_states ? chunk : 0)) * s->blocks + block) * k->padded_state;
}

static void forward_chunk(const struct scan *s, const struct task *k, const struct block *b, int64_t chunk,
                          const vec *state, vec *next, coefficients B, coefficients C) {
    const int64_t time = chunk * CHUNK;
    const int steps = chunk_steps(s, chunk);
    tile u, delta, clamped, delta_u, y, z;
    load_tile(u, &s->u, k->batch, b->channel, b->lanes, time, steps);
    load_delta(s, k, b, time, steps, u, delta, clamped, delta_u, NULL);
    for (int t = 0; t < steps; t++) y[t] = b->D * u[t];
    for (int n = 0; n < k->padded_state; n += UNROLL) {
        vec x[UNROLL];
        UNROLLED for (int j = 0; j < UNROLL; j++) x[j] = state[n + j];
        for (int t = 0; t < steps; t++) {
            vec sum = y[t];
            UNROLLED for (int j = 0; j < UNROLL; j++) {
                x[j] = exp2_vec(clamped[t] * b->a[n + j]) * x[j] + delta_u[t] * B[t][n + j];
                sum += x[j] * C[t][n + j];
            }
            y[t] = sum;
        }
        UNROLLED for (int j = 0; j < UNROLL; j++)
            if (next) next[n + j] = x[j];
    }
    if (s->z.data) {
        load_tile(z, &s->z, k->batch, b->channel, b->lanes, time, steps);
        for (int t = 0; t < steps; t++) y[t] *= z[t] * sigmoid(z[t], exp_of_minus_abs(z[t]));
    }
    store_tile(y, &s->out, k->batch, b->channel, b->lanes, time, steps);
}

struct sums { vec *state, *grad_A, *grad_D, *grad_bias; }; /* of one block, carried from chunk to chunk */

static void backward_chunk(const struct scan *s, const struct task *k, const struct block *b, int64_t chunk, const vec *start,
                           const struct sums *sums, coefficients B, coefficients C, vec (*grad_B)[MAX_STATE], vec (*grad_C)[MAX_STATE]) {
    const int64_t time = chunk * CHUNK;
    const int steps = chunk_steps(s, chunk);
    tile u, delta, clamped, delta_u, slope, y, z, gate_slope, grad_out, grad_y, grad_Bu, grad_decay;
    load_tile(u, &s->u, k->batch, b->channel, b->lanes, time, steps);
    load_delta(s, k, b, time, steps, u, delta, clamped, delta_u, slope);
    load_tile(grad_out, &s->grad_out, k->batch, b->channel, b->lanes, time, steps);
    if (s->z.data) load_tile(z, &s->z, k->batch, b->channel, b->lanes, time, steps);
    for (int t = 0; t < steps; t++) {
        grad_y[t] = grad_out[t];
        if (s->z.data) {
            vec gate = sigmoid(z[t], exp_of_minus_abs(z[t]));
            grad_y[t] *= z[t] * gate;
            gate_slope[t] = gate * (1.0f + z[t] * (1.0f - gate));
        }
        y[t] = b->D * u[t];
        grad_Bu[t] = grad_decay[t] = splat(0.0f);
        *sums->grad_D += grad_y[t] * u[t];
    }
    for (int n = 0; n < k->padded_state; n += UNROLL) {
        vec decay[CHUNK][UNROLL], state[CHUNK + 1][UNROLL], x[UNROLL], carry[UNROLL], grad_A[UNROLL];
        UNROLLED for (int j = 0; j < UNROLL; j++) {
            state[0][j] = x[j] = start[n + j];
            carry[j] = sums->state[n + j];
            grad_A[j] = sums->grad_A[n + j];
        }
        for (int t = 0; t < steps; t++) { /* the forward pass again */
            vec sum = y[t];
            UNROLLED for (int j = 0; j < UNROLL; j++) {
                decay[t][j] = exp2_vec(clamped[t] * b->a[n + j]);
                state[t + 1][j] = x[j] = decay[t][j] * x[j] + delta_u[t] * B[t][n + j];
                sum += x[j] * C[t][n + j];
                grad_C[t][n + j] += x[j] * grad_y[t];
            }
            y[t] = sum;
        }
        for (int t = steps - 1; t >= 0; t--) {
            vec sum_Bu = grad_Bu[t], sum_decay = grad_decay[t];
            UNROLLED for (int j = 0; j < UNROLL; j++) {
                vec grad_x = grad_y[t] * C[t][n + j] + carry[j];
                grad_B[t][n + j] += grad_x * delta_u[t];
                sum_Bu += grad_x * B[t][n + j];
                carry[j] = grad_x * decay[t][j];
                vec grad_exponent = carry[j] * state[t][j];
                sum_decay += grad_exponent * b->a[n + j];
                grad_A[j] += grad_exponent * delta[t];
            }
            grad_Bu[t] = sum_Bu;
            grad_decay[t] = sum_decay;
        }
        UNROLLED for (int j = 0; j < UNROLL; j++) {
            sums->state[n + j] = carry[j];
            sums->grad_A[n + j] = grad_A[j];
        }
    }
    for (int t = 0; t < steps; t++) {
        if (s->z.data) y[t] *= grad_out[t] * gate_slope[t];
        vec grad_delta = (grad_Bu[t] * u[t] + grad_decay[t] * LN_2) * slope[t];
        *sums->grad_bias += grad_delta;
        u[t] = grad_Bu[t] * delta[t] + grad_y[t] * b->D;
        delta[t] = grad_delta;
    }
    if (s->z.data) store_tile(y, &s->grad_z, k->batch, b->channel, b->lanes, time, steps);
    store_tile(u, &s->grad_u, k->batch, b->channel, b->lanes, time, steps);
    store_tile(delta, &s->grad_delta, k->batch, b->channel, b->lanes, time, steps);
}

/* ---------------------------------------------------------------- tasks */

static struct task task_at(const struct scan *s, int64_t index) {
    const int64_t group_channels = s->dim / s->groups, part_channels = s->blocks * LANES;
    struct task k = {.part = index % s->parts, .group = index / s->parts % s->groups, .batch = index / s->parts / s->groups};
    k.channel = k.group * group_channels + k.part * part_channels;
    k.channels = group_channels - k.part * part_channels < part_channels ? group_channels - k.part * part_channels : part_channels;
    k.padded_state = (s->state + UNROLL - 1) / UNROLL * UNROLL;
    return k;
}

static int forward_task(const struct scan *s, const struct task *k) {
    const int64_t chunks = (s->length + CHUNK - 1) / CHUNK, blocks = (k->channels + LANES - 1) / LANES;
    struct block *block = aligned_alloc(64, (blocks * sizeof *block + 63) / 64 * 64);
    if (!block) return -1;
    for (int64_t i = 0; i < blocks; i++) {
        load_block(&block[i], s, k, i);
        memset(state_at(s, k, 0, i), 0, k->padded_state * sizeof(vec));
    }
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        coefficients B, C;
        load_coefficients(B, s, &s->B, k, chunk * CHUNK, chunk_steps(s, chunk));
        load_coefficients(C, s, &s->C, k, chunk * CHUNK, chunk_steps(s, chunk));
        for (int64_t i = 0; i < blocks; i++)
            forward_chunk(s, k, &block[i], chunk, state_at(s, k, chunk, i), chunk + 1 < chunks ? state_at(s, k, chunk + 1, i) : NULL, B, C);
    }
    free(block);
    return 0;
}

static void store_coefficients(const struct scan *s, const struct small_view *v, const struct task *k, int64_t time, int steps, vec (*in)[MAX_STATE]) {
    float *to = v->data + k->batch * v->batch + k->group * v->group + k->part * s->part_stride + time * v->time;
    for (int t = 0; t < steps; t++)
        for (int n = 0; n < s->state; n++) to[t * v->time + n * v->state] = sum_lanes(in[t][n]);
}

static int backward_task(const struct scan *s, const struct task *k) {
    const int64_t chunks = (s->length + CHUNK - 1) / CHUNK, blocks = (k->channels + LANES - 1) / LANES, padded = k->padded_state;
    struct block *block = aligned_alloc(64, (blocks * sizeof *block + 63) / 64 * 64);
    vec *memory = aligned_alloc(64, (blocks * (2 * padded + 2) * sizeof(vec) + 63) / 64 * 64);
    if (!block || !memory) {
        free(block);
        free(memory);
        return -1;
    }
    memset(memory, 0, blocks * (2 * padded + 2) * sizeof(vec));
    for (int64_t i = 0; i < blocks; i++) load_block(&block[i], s, k, i);
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        const int64_t time = chunk * CHUNK;
        const int steps = chunk_steps(s, chunk);
        coefficients B, C;
        vec grad_B[CHUNK][MAX_STATE], grad_C[CHUNK][MAX_STATE];
        load_coefficients(B, s, &s->B, k, time, steps);
        load_coefficients(C, s, &s->C, k, time, steps);
        for (int t = 0; t < steps; t++) {
            memset(grad_B[t], 0, padded * sizeof(vec));
            memset(grad_C[t], 0, padded * sizeof(vec));
        }
        for (int64_t i = 0; i < blocks; i++) {
            vec *own = memory + i * (2 * padded + 2);
            const struct sums sums = {own, own + padded, own + 2 * padded, own + 2 * padded + 1};
            backward_chunk(s, k, &block[i], chunk, state_at(s, k, chunk, i), &sums, B, C, grad_B, grad_C);
        }
        store_coefficients(s, &s->grad_B, k, time, steps, grad_B);
        store_coefficients(s, &s->grad_C, k, time, steps, grad_C);
    }
    for (int64_t i = 0; i < blocks; i++) {
        const vec *own = memory + i * (2 * padded + 2);
        for (int lane = 0; lane < block[i].lanes; lane++) {
            const int64_t c = k->batch * s->dim + block[i].channel + lane;
            float *to = s->grad_parameters + c * (s->state + 2);
            for (int n = 0; n < s->state; n++) to[n] = own[padded + n][lane];
            to[s->state] = own[2 * padded][lane];
            to[s->state + 1] = own[2 * padded + 1][lane];
        }
    }
    free(block);
    free(memory);
    return 0;
}

/* ---------------------------------------------------------------- exported */

static void flip(struct view *v, int64_t length) {
    if (v->data) v->data = address(v, 0, 0, length - 1);
    v->time = -v->time;
}

static void flip_small(struct small_view *v, int64_t length) {
    if (v->data) v->data += (length - 1) * v->time;
    v->time = -v->time;
}

static struct scan in_scan_order(const struct scan *given) {
    struct scan s = *given;
    if (s.reverse) {
        struct view *views[] = {&s.u, &s.delta, &s.z, &s.out, &s.grad_out, &s.grad_u, &s.grad_delta, &s.grad_z};
        struct small_view *small[] = {&s.B, &s.C, &s.grad_B, &s.grad_C};
        for (int i = 0; i < 8; i++) flip(views[i], s.length);
        for (int i = 0; i < 4; i++) flip_small(small[i], s.length);
    }
    return s;
}

/* data[0][i] = sum over slices of data[slice][i], in ascending order. */
static void sum_slices(float *data, int64_t slices, int64_t size, int64_t threads) {
    const int64_t piece = 4096;
#pragma omp parallel for num_threads(threads)
    for (int64_t start = 0; start < size; start += piece)
        for (int64_t slice = 1; slice < slices; slice++)
            for (int64_t i = start; i < size && i < start + piece; i++) data[i] += data[slice * size + i];
}

/* Vanishing values cost hundreds of cycles each on some x86 processors: treat them as zero inside our own threads. */
#if defined(__SSE2__)
#define FLUSH_DENORMALS unsigned saved_mode = __builtin_ia32_stmxcsr(); __builtin_ia32_ldmxcsr(saved_mode | 0x8040u)
#define RESTORE_DENORMALS __builtin_ia32_ldmxcsr(saved_mode)
#else
#define FLUSH_DENORMALS (void)0
#define RESTORE_DENORMALS (void)0
#endif

typedef int (*task_function)(const struct scan *, const struct task *);

static int run_tasks(const struct scan *s, task_function function) {
    const int64_t tasks = s->batch * s->groups * s->parts;
    int failed = 0;
#pragma omp parallel num_threads(s->threads) reduction(| : failed)
    {
        FLUSH_DENORMALS;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < tasks; i++) {
            const struct task k = task_at(s, i);
            failed |= function(s, &k);
        }
        RESTORE_DENORMALS;
    }
    return failed;
}

int EXPORT(forward)(const struct scan *given) {
    const struct scan s = in_scan_order(given);
    return run_tasks(&s, forward_task);
}

int EXPORT(backward)(const struct scan *given) {
    const struct scan s = in_scan_order(given);
    const int failed = run_tasks(&s, backward_task);
    sum_slices(given->grad_B.data, s.parts, s.part_stride, s.threads); /* grad_C lies between the slices of grad_B */
    sum_slices(s.grad_parameters, s.batch, s.dim * (s.state + 2), s.threads);
    return failed;
}

int EXPORT(supported)(void) {
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}
