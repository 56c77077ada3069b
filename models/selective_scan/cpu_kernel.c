/* Selective scan on CPUs, forward and backward; cpu.py calls it, reference.py holds the formulas.
 *
 * Plain C with GCC/Clang vector extensions. compiler.py compiles this file once per instruction set (SUFFIX is appended to
 * the exported names) into one library and takes the first of them that supported() accepts.
 *
 * - A vector holds LANES neighbouring channels (a block), so that a scan step needs no sum across lanes.
 * - A task is one batch item x one part of a group's channels. It walks over the sequence in chunks of CHUNK steps and,
 *   within a chunk, over its blocks: B and C of the chunk and the sums over channels stay in the L1 cache.
 * - Tasks depend on the shape alone and all sums have a fixed order, so the number of threads changes no digit.
 * - The forward pass keeps the state before each chunk; the backward pass recomputes the chunk from it.
 * - A reversed scan is a negative time stride. Where a gate follows the sum of two directions, the second scan adds to
 *   what the first one gave (base), in the backward pass as well, as the gradient of the gate needs the sum.
 */
#include <stdlib.h>

#include "cpu_vectors.h"
#include "cpu_tiles.h"

#define UNROLL 4 /* states held in registers at a time; the state size is padded to a multiple of it */
#define EACH_STATE _Pragma("GCC unroll 4") for (int j = 0; j < UNROLL; j++)
#define MAX_STATE 64
#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define EXPORT(name) PASTE(name, SUFFIX)

struct small_view { /* a float32 tensor (batch, group, state, time); strides in elements */
    float *data;
    int64_t batch, group, state, time;
};
struct scan { /* what cpu.py hands over */
    int64_t batch, dim, length, state, groups, parts, blocks; /* parts per group, blocks per part */
    int64_t softplus, reverse, keep_states, threads;
    struct view u, delta, z, out, grad_out, grad_u, grad_delta, grad_z;
    struct view base, y; /* added to the result before the gate; where the backward pass leaves that result, if given */
    struct small_view B, C;
    const float *A, *D, *bias;        /* (dim, state), (dim,), (dim,); the last two may be NULL */
    float *states;                    /* (tasks, chunks or 1, blocks, padded state, LANES) */
    struct small_view grad_B, grad_C; /* those of part 0, which get the sums over the parts */
    int64_t part_stride;              /* size of one part's gradients of B and C together */
    float *grad_parameters;           /* (batch, dim, state + 2): A, D, bias; [0] gets the sum over the batch */
    float scale;                      /* of the gate: out = scale * silu(z) * y */
};
struct task {
    int64_t batch, group, part, channel, channels; /* first channel and number of channels */
    int64_t chunks, blocks, padded_state;
};

/* B or C of one chunk, and its gradient before the sum over channels; state n is at [n / UNROLL][step][n % UNROLL]. */
typedef float coefficients[MAX_STATE / UNROLL][CHUNK][UNROLL];
typedef vec coefficient_sums[MAX_STATE / UNROLL][CHUNK][UNROLL];

struct block { /* LANES channels: their parameters, and what the backward pass carries from chunk to chunk */
    int64_t channel;
    int lanes;
    vec D, bias, lowest, highest; /* lowest <= delta <= highest keeps delta * a in the range of exp2_of_product */
    vec grad_D, grad_bias;
    vec a[MAX_STATE]; /* A * log2(e) */
    vec grad_A[MAX_STATE], grad_state[MAX_STATE];
};

struct work { /* the tiles of one chunk of one block; those from `slope` on belong to the backward pass */
    tile u, delta, clamped, delta_u, y, z; /* delta after bias and softplus; clamped to the block's range; delta * u */
    tile slope, gate_slope;                /* derivatives of the softplus and of scale * silu(z) */
    tile grad_out, grad_y, grad_Bu, grad_exponent;
};

/* ---------------------------------------------------------------- preparation */

static int chunk_steps(const struct scan *s, int64_t chunk) {
    const int64_t left = s->length - chunk * CHUNK;
    return left < CHUNK ? (int)left : CHUNK;
}

static struct place place_of(const struct scan *s, const struct task *k, const struct block *b, int64_t chunk) {
    return (struct place){k->batch, b->channel, chunk * CHUNK, b->lanes, chunk_steps(s, chunk)};
}

/* What to prefetch while block `index` is at work: the next cache line, once for all blocks that share it. */
static struct place place_after(const struct scan *s, const struct task *k, const struct block *blocks, int64_t index,
                                int64_t chunk, int direction) {
    const int64_t per_line = 64 / (int64_t)sizeof(vec);
    if (index % per_line) return (struct place){0};
    index += per_line;
    if (index >= k->blocks) {
        index = 0;
        chunk += direction;
    }
    if (chunk < 0 || chunk >= k->chunks) return (struct place){0};
    return place_of(s, k, &blocks[index], chunk);
}

static vec *state_before(const struct scan *s, const struct task *k, int64_t chunk, int64_t block) {
    const int64_t task = (k->batch * s->groups + k->group) * s->parts + k->part;
    const int64_t slot = s->keep_states ? task * k->chunks + chunk : task;
    return (vec *)s->states + (slot * s->blocks + block) * k->padded_state;
}

static void load_coefficients(coefficients out, const struct scan *s, const struct small_view *v, const struct task *k,
                              int64_t chunk) {
    const int packed = v->state == 1 && s->state == k->padded_state;
    for (int t = 0; t < chunk_steps(s, chunk); t++) {
        const float *from = v->data + k->batch * v->batch + k->group * v->group + (chunk * CHUNK + t) * v->time;
        for (int n = 0; n < k->padded_state; n += UNROLL) {
            float *to = out[n / UNROLL][t];
            if (packed) memcpy(to, from + n, sizeof out[0][0]);
            else for (int j = 0; j < UNROLL; j++) to[j] = n + j < s->state ? from[(n + j) * v->state] : 0.0f;
        }
    }
}

static void store_coefficients(coefficient_sums in, const struct scan *s, const struct small_view *v,
                               const struct task *k, int64_t chunk) {
    for (int t = 0; t < chunk_steps(s, chunk); t++) {
        float *to = v->data + k->batch * v->batch + k->group * v->group + k->part * s->part_stride;
        to += (chunk * CHUNK + t) * v->time;
        for (int n = 0; n < s->state; n++) to[n * v->state] = sum_lanes(in[n / UNROLL][t][n % UNROLL]);
    }
}

static void load_block(struct block *b, const struct scan *s, const struct task *k, int64_t index) {
    const int64_t left = k->channels - index * LANES;
    vec largest = splat(1e-30f), smallest = splat(-1e-30f);
    memset(b, 0, sizeof *b);
    b->channel = k->channel + index * LANES;
    b->lanes = left < LANES ? (int)left : LANES;
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
    b->highest = vmin(127.0f / largest, -4e6f / smallest);
    b->lowest = vmax(127.0f / smallest, -4e6f / largest);
}

static struct block *load_blocks(const struct scan *s, const struct task *k) {
    struct block *blocks = aligned_alloc(64, (k->blocks * sizeof *blocks + 63) / 64 * 64);
    for (int64_t i = 0; blocks && i < k->blocks; i++) load_block(&blocks[i], s, k, i);
    return blocks;
}

/* Fills u, delta, clamped, delta_u, z, y (as far as it needs no state) and, for the backward pass, slope. */
static void load_inputs(struct work *w, const struct scan *s, const struct block *b, const struct place *p,
                        int backward) {
    load_tile(w->u, &s->u, p);
    load_tile(w->delta, &s->delta, p);
    if (s->z.data) load_tile(w->z, &s->z, p);
    if (s->base.data) load_tile(w->y, &s->base, p);
    for (int t = 0; t < p->steps; t++) {
        vec x = w->delta[t] + b->bias;
        if (backward) w->slope[t] = splat(1.0f);
        if (s->softplus) {
            const vec e = exp_of_minus_abs(x);
            if (backward) w->slope[t] = sigmoid(x, e);
            x = vmax(x, splat(0.0f)) + log1p_vec(e);
        }
        w->delta[t] = x;
        w->clamped[t] = vmin(vmax(x, b->lowest), b->highest);
        w->delta_u[t] = x * w->u[t];
        w->y[t] = b->D * w->u[t] + (s->base.data ? w->y[t] : splat(0.0f));
    }
}

/* ---------------------------------------------------------------- forward */

static void forward_chunk(const struct scan *s, const struct task *k, const struct block *b, const struct place *p,
                          const struct place *later, const vec *state, vec *next, coefficients B, coefficients C) {
    const struct view *const used[] = {&s->u, &s->delta, &s->z, &s->out, &s->base};
    struct work w;
    load_inputs(&w, s, b, p, 0);
    for (int n = 0, g = 0; n < k->padded_state; n += UNROLL, g++) {
        vec x[UNROLL];
        prefetch_tiles(used, 5, g, (int)k->padded_state / UNROLL, later);
        EACH_STATE x[j] = state[n + j];
        vec decay[CHUNK][UNROLL];
        for (int t = 0; t < p->steps; t++) EACH_STATE decay[t][j] = exp2_of_product(w.clamped[t], b->a[n + j]);
        for (int t = 0; t < p->steps; t++) {
            vec y = w.y[t];
            EACH_STATE {
                x[j] = decay[t][j] * x[j] + w.delta_u[t] * B[g][t][j];
                y += x[j] * C[g][t][j];
            }
            w.y[t] = y;
        }
        if (next) EACH_STATE next[n + j] = x[j];
    }
    if (s->z.data)
        for (int t = 0; t < p->steps; t++) w.y[t] *= s->scale * w.z[t] * sigmoid(w.z[t], exp_of_minus_abs(w.z[t]));
    store_tile(w.y, &s->out, p);
}

static int forward_task(const struct scan *s, const struct task *k) {
    struct block *blocks = load_blocks(s, k);
    if (!blocks) return -1;
    for (int64_t i = 0; i < k->blocks; i++) memset(state_before(s, k, 0, i), 0, k->padded_state * sizeof(vec));
    for (int64_t chunk = 0; chunk < k->chunks; chunk++) {
        coefficients B, C;
        load_coefficients(B, s, &s->B, k, chunk);
        load_coefficients(C, s, &s->C, k, chunk);
        for (int64_t i = 0; i < k->blocks; i++) {
            const struct place here = place_of(s, k, &blocks[i], chunk);
            const struct place later = place_after(s, k, blocks, i, chunk, 1);
            vec *next = chunk + 1 < k->chunks ? state_before(s, k, chunk + 1, i) : NULL;
            forward_chunk(s, k, &blocks[i], &here, &later, state_before(s, k, chunk, i), next, B, C);
        }
    }
    free(blocks);
    return 0;
}

#include "cpu_backward.h" /* here, as it uses what stands above */

/* ---------------------------------------------------------------- tasks and what is exported */

static struct task task_at(const struct scan *s, int64_t index) {
    const int64_t group_channels = s->dim / s->groups, part_channels = s->blocks * LANES;
    struct task k = {.part = index % s->parts, .group = index / s->parts % s->groups};
    const int64_t left = group_channels - k.part * part_channels;
    k.batch = index / s->parts / s->groups;
    k.channel = k.group * group_channels + k.part * part_channels;
    k.channels = left < part_channels ? left : part_channels;
    k.chunks = (s->length + CHUNK - 1) / CHUNK;
    k.blocks = (k.channels + LANES - 1) / LANES;
    k.padded_state = (s->state + UNROLL - 1) / UNROLL * UNROLL;
    return k;
}

static struct scan in_scan_order(const struct scan *given) {
    struct scan s = *given;
    struct view *views[] = {&s.u,          &s.delta,  &s.z,    &s.out, &s.grad_out, &s.grad_u,
                            &s.grad_delta, &s.grad_z, &s.base, &s.y};
    struct small_view *small[] = {&s.B, &s.C, &s.grad_B, &s.grad_C};
    for (int i = 0; i < 10 && s.reverse; i++) reverse_time(views[i], s.length);
    for (int i = 0; i < 4 && s.reverse; i++) {
        if (small[i]->data) small[i]->data += (s.length - 1) * small[i]->time;
        small[i]->time *= -1;
    }
    return s;
}

/* Results below 1e-38 cost hundreds of cycles each on some x86 processors: they become zero inside our own threads. */
#if defined(__SSE2__)
static unsigned flush_denormals(void) {
    const unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(mode | 0x8040u); /* flush results to zero, take denormal inputs as zero */
    return mode;
}
static void restore_denormals(unsigned mode) { __builtin_ia32_ldmxcsr(mode); }
#else
static unsigned flush_denormals(void) { return 0; }
static void restore_denormals(unsigned mode) { (void)mode; }
#endif

static int run_tasks(const struct scan *s, int (*run)(const struct scan *, const struct task *)) {
    int failed = 0;
#pragma omp parallel num_threads(s->threads) reduction(| : failed)
    {
        const unsigned mode = flush_denormals();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s->batch * s->groups * s->parts; i++) {
            const struct task k = task_at(s, i);
            failed |= run(s, &k);
        }
        restore_denormals(mode);
    }
    return failed;
}

/* data[0][i] = sum over slices of data[slice][i], in ascending order. */
static void sum_slices(int64_t threads, float *data, int64_t slices, int64_t size) {
    const int64_t piece = 4096;
#pragma omp parallel for num_threads(threads)
    for (int64_t start = 0; start < size; start += piece)
        for (int64_t slice = 1; slice < slices; slice++)
            for (int64_t i = start; i < size && i < start + piece; i++) data[i] += data[slice * size + i];
    (void)threads;
}

int EXPORT(forward)(const struct scan *given) {
    const struct scan s = in_scan_order(given);
    return run_tasks(&s, forward_task);
}

int EXPORT(backward)(const struct scan *given) {
    const struct scan s = in_scan_order(given);
    const int failed = run_tasks(&s, backward_task);
    sum_slices(s.threads, given->grad_B.data, s.parts, s.part_stride); /* and grad_C, which lies behind it in each slice */
    sum_slices(s.threads, s.grad_parameters, s.batch, s.dim * (s.state + 2));
    return failed;
}

#include "cpu_conv.h" /* this too */

int EXPORT(supported)(void) {
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}
