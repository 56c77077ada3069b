/* Causal depthwise convolution and SiLU in one pass, forward and backward; cpu_conv.py calls it. Included by
 * cpu_kernel.c, whose views, tiles and threads it shares.
 *
 * A task is one batch item. It walks over the sequence in chunks and, within a chunk, over blocks of LANES channels, so
 * that memory is read row by row; a reversed convolution is a negative time stride. The backward pass recomputes the
 * value before the SiLU and goes from the last chunk to the first, as the gradient of x needs what comes after it. */
#define MAX_TAPS 8

struct conv { /* what cpu_conv.py hands over */
    int64_t batch, dim, length, taps, reverse, threads, accumulate; /* the last: grad_x is added to what is there */
    struct view x, out, grad_out, grad_x;
    const float *weight, *bias; /* (dim, taps), (dim,) */
    float *grad_parameters;     /* (batch, dim, taps + 1): weight, bias; [0] gets the sum over the batch */
};
struct channels { /* LANES channels */
    int lanes;
    vec weight[MAX_TAPS], bias, grad_weight[MAX_TAPS], grad_bias;
    vec kept[MAX_TAPS]; /* forward: the last inputs of the chunk before; backward: the first gradients of the one behind */
};

static struct channels *load_channels(const struct conv *c) {
    const int64_t blocks = (c->dim + LANES - 1) / LANES;
    struct channels *all = aligned_alloc(64, (blocks * sizeof *all + 63) / 64 * 64);
    if (!all) return NULL;
    memset(all, 0, blocks * sizeof *all);
    for (int64_t channel = 0; channel < c->dim; channel++) {
        struct channels *b = &all[channel / LANES];
        const int i = b->lanes++;
        b->bias[i] = c->bias[channel];
        for (int k = 0; k < c->taps; k++) b->weight[k][i] = c->weight[channel * c->taps + k];
    }
    return all;
}

static struct place conv_place(const struct conv *c, int64_t batch, int64_t block, int lanes, int64_t time) {
    const int64_t left = c->length - time;
    return (struct place){batch, block * LANES, time, lanes, left < CHUNK ? (int)left : CHUNK};
}

/* sum over k of weight[k] * x[t - (taps - 1) + k], plus bias; x[-1], x[-2] ... are the inputs before the chunk. */
static inline vec before_silu(const struct channels *b, const vec *x, int t, int taps) {
    vec sum = b->bias;
    for (int k = 0; k < taps; k++) sum += b->weight[k] * x[t - (taps - 1) + k];
    return sum;
}

static inline __attribute__((always_inline)) void conv_forward_chunk(const struct conv *c, struct channels *b,
                                                                     const struct place *p, int taps) {
    vec x[MAX_TAPS + CHUNK], *now = x + MAX_TAPS;
    for (int k = 1; k < taps; k++) now[-k] = b->kept[k];
    load_tile(now, &c->x, p);
    for (int k = 1; k < taps; k++) b->kept[k] = now[p->steps - k];
    tile out;
    for (int t = 0; t < p->steps; t++) {
        const vec a = before_silu(b, now, t, taps);
        out[t] = a * sigmoid(a, exp_of_minus_abs(a));
    }
    store_tile(out, &c->out, p);
}

static inline __attribute__((always_inline)) void conv_backward_chunk(const struct conv *c, struct channels *b,
                                                                      const struct place *p, int taps) {
    vec x[MAX_TAPS + CHUNK] = {{0}}, *now = x + MAX_TAPS, slope[CHUNK + MAX_TAPS];
    if (p->time > 0) { /* chunks are longer than the convolution, so that all of these inputs exist */
        const struct place past = {p->batch, p->channel, p->time - (taps - 1), p->lanes, taps - 1};
        load_tile(now - (taps - 1), &c->x, &past);
    }
    load_tile(now, &c->x, p);
    load_tile(slope, &c->grad_out, p);
    for (int k = 0; k < taps - 1; k++) slope[p->steps + k] = b->kept[k];
    for (int t = 0; t < p->steps; t++) {
        const vec a = before_silu(b, now, t, taps), gate = sigmoid(a, exp_of_minus_abs(a));
        slope[t] *= gate * (1.0f + a * (1.0f - gate)); /* now the gradient of a */
        b->grad_bias += slope[t];
        for (int k = 0; k < taps; k++) b->grad_weight[k] += slope[t] * now[t - (taps - 1) + k];
    }
    tile grad_x;
    if (c->accumulate) load_tile(grad_x, &c->grad_x, p);
    for (int t = 0; t < p->steps; t++) {
        if (!c->accumulate) grad_x[t] = splat(0.0f);
        for (int k = 0; k < taps; k++) grad_x[t] += b->weight[k] * slope[t + (taps - 1) - k];
    }
    store_tile(grad_x, &c->grad_x, p);
    for (int k = 0; k < taps - 1; k++) b->kept[k] = k < p->steps ? slope[k] : splat(0.0f);
}

static int conv_forward_item(const struct conv *c, int64_t batch) {
    struct channels *all = load_channels(c);
    if (!all) return -1;
    for (int64_t time = 0; time < c->length; time += CHUNK)
        for (int64_t i = 0; i * LANES < c->dim; i++) {
            const struct place p = conv_place(c, batch, i, all[i].lanes, time);
            if (c->taps == 4) conv_forward_chunk(c, &all[i], &p, 4); /* Mamba's width, unrolled */
            else conv_forward_chunk(c, &all[i], &p, (int)c->taps);
        }
    free(all);
    return 0;
}

static int conv_backward_item(const struct conv *c, int64_t batch) {
    struct channels *all = load_channels(c);
    if (!all) return -1;
    for (int64_t time = (c->length - 1) / CHUNK * CHUNK; time >= 0; time -= CHUNK)
        for (int64_t i = 0; i * LANES < c->dim; i++) {
            const struct place p = conv_place(c, batch, i, all[i].lanes, time);
            if (c->taps == 4) conv_backward_chunk(c, &all[i], &p, 4);
            else conv_backward_chunk(c, &all[i], &p, (int)c->taps);
        }
    for (int64_t channel = 0; channel < c->dim; channel++) {
        const struct channels *b = &all[channel / LANES];
        float *to = c->grad_parameters + (batch * c->dim + channel) * (c->taps + 1);
        for (int k = 0; k < c->taps; k++) to[k] = b->grad_weight[k][channel % LANES];
        to[c->taps] = b->grad_bias[channel % LANES];
    }
    free(all);
    return 0;
}

static int run_conv(const struct conv *given, int (*run)(const struct conv *, int64_t)) {
    struct conv c = *given;
    struct view *views[] = {&c.x, &c.out, &c.grad_out, &c.grad_x};
    for (int i = 0; i < 4 && c.reverse; i++) reverse_time(views[i], c.length);
    int failed = 0;
#pragma omp parallel for num_threads(c.threads) schedule(dynamic) reduction(| : failed)
    for (int64_t i = 0; i < c.batch; i++) failed |= run(&c, i);
    return failed;
}

int EXPORT(conv_forward)(const struct conv *c) { return run_conv(c, conv_forward_item); }

int EXPORT(conv_backward)(const struct conv *c) {
    const int failed = run_conv(c, conv_backward_item);
    sum_slices(c->threads, c->grad_parameters, c->batch, c->dim * (c->taps + 1));
    return failed;
}
