/* Tiles: up to CHUNK steps of LANES neighbouring channels as float32. They decouple the arithmetic from a tensor's
 * strides, dtype and ragged edges. */
#include <string.h>

#define CHUNK 16
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

/* One step of LANES channels that lie `step` bytes apart; inlined with constants for the common cases. Lanes beyond
 * `lanes` are zero, or not stored. */
static inline __attribute__((always_inline)) vec gather(const char *from, int64_t step, int lanes, int is_bf16) {
    vec x = {0};
    EACH_LANE {
        const char *at = from + i * step;
        if (i < lanes) x[i] = is_bf16 ? from_bf16(*(const uint16_t *)at) : *(const float *)at;
    }
    return x;
}

static inline __attribute__((always_inline)) void scatter(vec x, char *to, int64_t step, int lanes, int is_bf16) {
    const uvec bits = to_bf16(x);
    EACH_LANE {
        if (i >= lanes) continue;
        if (is_bf16) *(uint16_t *)(to + i * step) = (uint16_t)bits[i];
        else *(float *)(to + i * step) = x[i];
    }
}

static void load_tile(tile out, const struct view *v, const struct place *p) {
    const char *row = address(v, p->batch, p->channel, p->time);
    const int64_t size = v->is_bf16 ? 2 : 4, step = v->channel * size;
    const int full = p->lanes == LANES, packed = full && v->channel == 1;
    for (int t = 0; t < p->steps; t++, row += v->time * size) {
        if (packed && !v->is_bf16) {
            memcpy(&out[t], row, sizeof(vec));
        } else if (packed) {
            hvec half;
            memcpy(&half, row, sizeof half);
            out[t] = (vec)(__builtin_convertvector(half, uvec) << 16);
        } else if (full && !v->is_bf16) {
            out[t] = gather(row, step, LANES, 0);
        } else {
            out[t] = gather(row, step, p->lanes, (int)v->is_bf16);
        }
    }
}

static void store_tile(const tile in, const struct view *v, const struct place *p) {
    char *row = address(v, p->batch, p->channel, p->time);
    const int64_t size = v->is_bf16 ? 2 : 4, step = v->channel * size;
    const int full = p->lanes == LANES, packed = full && v->channel == 1;
    for (int t = 0; t < p->steps; t++, row += v->time * size) {
        if (packed && !v->is_bf16) {
            memcpy(row, &in[t], sizeof(vec));
        } else if (packed) {
            hvec half = __builtin_convertvector(to_bf16(in[t]), hvec);
            memcpy(row, &half, sizeof half);
        } else if (full && !v->is_bf16) {
            scatter(in[t], row, step, LANES, 0);
        } else {
            scatter(in[t], row, step, p->lanes, (int)v->is_bf16);
        }
    }
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
