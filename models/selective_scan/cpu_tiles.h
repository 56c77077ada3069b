/* Tiles: up to CHUNK steps of LANES neighbouring channels as float32. They decouple the arithmetic from a tensor's
 * strides, dtype and ragged edges. */
#include <string.h>

#define CHUNK 16
#define INLINED static inline __attribute__((always_inline)) /* so that constant arguments choose the code */
typedef vec tile[CHUNK];

struct view { /* a tensor (batch, channel, time); strides in elements; data == NULL where it is absent */
    void *data;
    int64_t batch, channel, time, is_bf16;
};

static inline char *address(const struct view *v, int64_t batch, int64_t channel, int64_t time) {
    return (char *)v->data + (batch * v->batch + channel * v->channel + time * v->time) * (v->is_bf16 ? 2 : 4);
}

/* Let a view run from its last step to its first. */
static inline void reverse_time(struct view *v, int64_t length) {
    if (v->data) v->data = address(v, 0, 0, length - 1);
    v->time *= -1;
}

/* Where a tile lies: `lanes` channels from `channel` on, `steps` steps from `time` on. */
struct place { int64_t batch, channel, time; int lanes, steps; };

/* LANES neighbouring elements. */
INLINED vec load_vector(const char *from, int is_bf16) {
    vec x;
    hvec half;
    if (is_bf16) {
        memcpy(&half, from, sizeof half);
        return (vec)(__builtin_convertvector(half, uvec) << 16);
    }
    memcpy(&x, from, sizeof x);
    return x;
}

INLINED void store_vector(vec x, char *to, int is_bf16) {
    if (is_bf16) {
        const hvec half = __builtin_convertvector(to_bf16(x), hvec);
        memcpy(to, &half, sizeof half);
    } else {
        memcpy(to, &x, sizeof x);
    }
}

/* Tiles whose channels lie side by side: a vector per step, `step` bytes apart. */
INLINED void load_rows(tile out, const char *from, int64_t step, int steps, int is_bf16) {
    for (int t = 0; t < steps; t++) out[t] = load_vector(from + t * step, is_bf16);
}

INLINED void store_rows(const tile in, char *to, int64_t step, int steps, int is_bf16) {
    for (int t = 0; t < steps; t++) store_vector(in[t], to + t * step, is_bf16);
}

/* Full tiles whose steps lie side by side: squares of LANES channels, `step` bytes apart, by LANES steps. Where time runs
 * down, `from` is the last step, and the tile is filled from its end. */
INLINED void load_squares(tile out, const char *from, int64_t step, int reversed, int is_bf16) {
    for (int first = 0; first < CHUNK; first += LANES) {
        vec square[LANES];
        EACH_LANE square[i] = load_vector(from + i * step + first * (is_bf16 ? 2 : 4), is_bf16);
        transpose(square);
        EACH_LANE out[reversed ? CHUNK - 1 - first - i : first + i] = square[i];
    }
}

INLINED void store_squares(const tile in, char *to, int64_t step, int reversed, int is_bf16) {
    for (int first = 0; first < CHUNK; first += LANES) {
        vec square[LANES];
        EACH_LANE square[i] = in[reversed ? CHUNK - 1 - first - i : first + i];
        transpose(square);
        EACH_LANE store_vector(square[i], to + i * step + first * (is_bf16 ? 2 : 4), is_bf16);
    }
}

/* Any other tile, element by element. Lanes beyond `lanes` are zero, or not stored. */
static void load_elements(tile out, const struct view *v, const struct place *p) {
    for (int t = 0; t < p->steps; t++) {
        out[t] = splat(0.0f);
        for (int i = 0; i < p->lanes; i++) {
            const char *from = address(v, p->batch, p->channel + i, p->time + t);
            out[t][i] = v->is_bf16 ? from_bf16(*(const uint16_t *)from) : *(const float *)from;
        }
    }
}

static void store_elements(const tile in, const struct view *v, const struct place *p) {
    for (int t = 0; t < p->steps; t++) {
        const uvec bits = to_bf16(in[t]);
        for (int i = 0; i < p->lanes; i++) {
            char *to = address(v, p->batch, p->channel + i, p->time + t);
            if (v->is_bf16) *(uint16_t *)to = (uint16_t)bits[i];
            else *(float *)to = in[t][i];
        }
    }
}

static inline int has_rows(const struct view *v, const struct place *p) {
    return p->lanes == LANES && v->channel == 1;
}

static inline int has_squares(const struct view *v, const struct place *p) {
    return p->lanes == LANES && p->steps == CHUNK && (v->time == 1 || v->time == -1);
}

static void load_tile(tile out, const struct view *v, const struct place *p) {
    const int64_t size = v->is_bf16 ? 2 : 4;
    const int reversed = v->time < 0;
    const char *rows = address(v, p->batch, p->channel, p->time);
    const char *squares = address(v, p->batch, p->channel, p->time + (reversed ? CHUNK - 1 : 0));
    if (has_rows(v, p) && v->is_bf16) load_rows(out, rows, v->time * size, p->steps, 1);
    else if (has_rows(v, p)) load_rows(out, rows, v->time * size, p->steps, 0);
    else if (has_squares(v, p) && v->is_bf16) load_squares(out, squares, v->channel * size, reversed, 1);
    else if (has_squares(v, p)) load_squares(out, squares, v->channel * size, reversed, 0);
    else load_elements(out, v, p);
}

static void store_tile(const tile in, const struct view *v, const struct place *p) {
    const int64_t size = v->is_bf16 ? 2 : 4;
    const int reversed = v->time < 0;
    char *rows = address(v, p->batch, p->channel, p->time);
    char *squares = address(v, p->batch, p->channel, p->time + (reversed ? CHUNK - 1 : 0));
    if (has_rows(v, p) && v->is_bf16) store_rows(in, rows, v->time * size, p->steps, 1);
    else if (has_rows(v, p)) store_rows(in, rows, v->time * size, p->steps, 0);
    else if (has_squares(v, p) && v->is_bf16) store_squares(in, squares, v->channel * size, reversed, 1);
    else if (has_squares(v, p)) store_squares(in, squares, v->channel * size, reversed, 0);
    else store_elements(in, v, p);
}

/* Fetch the cache lines of a later tile in views[first], views[first + stride], ...: its rows lie far apart, which
 * hardware prefetchers do not foresee. Too many at a time would stall, so the caller spreads them over its loop. */
static inline void prefetch_tiles(const struct view *const *views, int count, int first, int stride,
                                  const struct place *p) {
    for (int i = first; i < count; i += stride) {
        const struct view *v = views[i];
        if (!v->data || !p->steps) continue;
        if (v->channel == 1) {
            for (int t = 0; t < p->steps; t++) __builtin_prefetch(address(v, p->batch, p->channel, p->time + t));
        } else {
            for (int c = 0; c < 16; c++) {
                __builtin_prefetch(address(v, p->batch, p->channel + c, p->time));
                __builtin_prefetch(address(v, p->batch, p->channel + c, p->time + p->steps - 1));
            }
        }
    }
}
