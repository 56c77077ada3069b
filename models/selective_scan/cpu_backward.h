/* The backward pass of the scan, a part of cpu_kernel.c. It goes through the chunks from the last to the first. */

/* States n .. n + UNROLL - 1 of one chunk: recompute them, then go back from the last step to the first. */
static inline void backward_states(struct work *w, struct block *b, int n, int steps, const vec *start,
                                   float (*B)[UNROLL], float (*C)[UNROLL],
                                   vec (*grad_B)[UNROLL], vec (*grad_C)[UNROLL]) {
    vec decay[CHUNK][UNROLL], state[CHUNK + 1][UNROLL], x[UNROLL], carry[UNROLL], grad_A[UNROLL];
    EACH_STATE {
        state[0][j] = x[j] = start[n + j];
        carry[j] = b->grad_state[n + j];
        grad_A[j] = b->grad_A[n + j];
    }
    for (int t = 0; t < steps; t++) EACH_STATE decay[t][j] = exp2_of_product(w->clamped[t], b->a[n + j]);
    for (int t = 0; t < steps; t++) {
        vec y = w->y[t];
        EACH_STATE {
            state[t + 1][j] = x[j] = decay[t][j] * x[j] + w->delta_u[t] * B[t][j];
            y += x[j] * C[t][j];
            grad_C[t][j] += x[j] * w->grad_y[t];
        }
        w->y[t] = y;
    }
    for (int t = steps - 1; t >= 0; t--) {
        vec grad_Bu = w->grad_Bu[t], grad_exponent = w->grad_exponent[t];
        EACH_STATE {
            const vec grad_x = w->grad_y[t] * C[t][j] + carry[j];
            grad_B[t][j] += grad_x * w->delta_u[t];
            grad_Bu += grad_x * B[t][j];
            carry[j] = grad_x * decay[t][j];
            const vec grad_product = carry[j] * state[t][j]; /* of delta * A */
            grad_exponent += grad_product * b->a[n + j];
            grad_A[j] += grad_product * w->delta[t];
        }
        w->grad_Bu[t] = grad_Bu;
        w->grad_exponent[t] = grad_exponent;
    }
    EACH_STATE {
        b->grad_state[n + j] = carry[j];
        b->grad_A[n + j] = grad_A[j];
    }
}

static void backward_chunk(const struct scan *s, const struct task *k, struct block *b, const struct place *p,
                           const struct place *later, const vec *start, coefficients B, coefficients C,
                           coefficient_sums grad_B, coefficient_sums grad_C) {
    const struct view *const used[] = {&s->u,      &s->delta,      &s->z,      &s->base, &s->grad_out,
                                       &s->grad_u, &s->grad_delta, &s->grad_z, &s->y};
    struct work w;
    load_inputs(&w, s, b, p, 1);
    load_tile(w.grad_out, &s->grad_out, p);
    for (int t = 0; t < p->steps; t++) {
        w.grad_y[t] = w.grad_out[t];
        if (s->z.data) {
            const vec gate = sigmoid(w.z[t], exp_of_minus_abs(w.z[t]));
            w.grad_y[t] *= s->scale * w.z[t] * gate;
            w.gate_slope[t] = s->scale * gate * (1.0f + w.z[t] * (1.0f - gate));
        }
        w.grad_Bu[t] = w.grad_exponent[t] = splat(0.0f);
        b->grad_D += w.grad_y[t] * w.u[t];
    }
    for (int n = 0, g = 0; n < k->padded_state; n += UNROLL, g++) {
        prefetch_tiles(used, 9, g, (int)k->padded_state / UNROLL, later);
        backward_states(&w, b, n, p->steps, start, B[g], C[g], grad_B[g], grad_C[g]);
    }
    if (s->y.data) store_tile(w.y, &s->y, p);
    for (int t = 0; t < p->steps; t++) { /* the results take the places of y, u and delta */
        if (s->grad_z.data) w.y[t] *= w.grad_out[t] * w.gate_slope[t];
        const vec grad_delta = (w.grad_Bu[t] * w.u[t] + w.grad_exponent[t] * LN_2) * w.slope[t];
        b->grad_bias += grad_delta;
        w.u[t] = w.grad_Bu[t] * w.delta[t] + w.grad_y[t] * b->D;
        w.delta[t] = grad_delta;
    }
    if (s->grad_z.data) store_tile(w.y, &s->grad_z, p);
    store_tile(w.u, &s->grad_u, p);
    store_tile(w.delta, &s->grad_delta, p);
}

static void store_parameters(const struct scan *s, const struct task *k, const struct block *b) {
    for (int i = 0; i < b->lanes; i++) {
        float *to = s->grad_parameters + (k->batch * s->dim + b->channel + i) * (s->state + 2);
        for (int n = 0; n < s->state; n++) to[n] = b->grad_A[n][i];
        to[s->state] = b->grad_D[i];
        to[s->state + 1] = b->grad_bias[i];
    }
}

static int backward_task(const struct scan *s, const struct task *k) {
    struct block *blocks = load_blocks(s, k);
    if (!blocks) return -1;
    for (int64_t chunk = k->chunks - 1; chunk >= 0; chunk--) {
        coefficients B, C;
        coefficient_sums grad_B, grad_C;
        load_coefficients(B, s, &s->B, k, chunk);
        load_coefficients(C, s, &s->C, k, chunk);
        memset(grad_B, 0, k->padded_state / UNROLL * sizeof grad_B[0]);
        memset(grad_C, 0, k->padded_state / UNROLL * sizeof grad_C[0]);
        for (int64_t i = 0; i < k->blocks; i++) {
            const struct place here = place_of(s, k, &blocks[i], chunk);
            const struct place later = place_after(s, k, blocks, i, chunk, -1);
            backward_chunk(s, k, &blocks[i], &here, &later, state_before(s, k, chunk, i), B, C, grad_B, grad_C);
        }
        store_coefficients(grad_B, s, &s->grad_B, k, chunk);
        store_coefficients(grad_C, s, &s->grad_C, k, chunk);
    }
    for (int64_t i = 0; i < k->blocks; i++) store_parameters(s, k, &blocks[i]);
    free(blocks);
    return 0;
}
