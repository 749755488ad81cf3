/* Where gradients are. Without windows a segment's gradient is one stretch beside its values. With
   zero 2 it is, one after the other: what backward keeps until the end (embedding, norm, head), two
   windows for the layers, and the sums of what this rank owns of them. */
#include "parallel/param_impl.h"

#include <string.h>

static char *at(void *base, sy_dtype dtype, int64_t element)
{
    return (char *)base + element * (int64_t)sy_dtype_bytes(dtype);
}

/* "layers/003/", or 0. */
static size_t layer_length(const char *name)
{
    const size_t digits = strlen("layers/") + strspn(name + strcspn(name, "/") + 1, "0123456789");
    return strncmp(name, "layers/", strlen("layers/")) == 0 && name[digits] == '/' ? digits + 1 : 0;
}

bool sy__takes_turns(const sy_param *param)
{
    return layer_length(param->spec.name) > 0;
}

bool sy__same_turn(const sy_param *a, const sy_param *b)
{
    const size_t length = layer_length(a->spec.name);
    return length > 0 && strncmp(a->spec.name, b->spec.name, length) == 0;
}

/* What of a segment takes turns. */
typedef struct turns {
    int64_t n, longest; /* elements of all of them, and of the largest */
} turns;

static turns count_turns(const sy_params *params, const sy_segment *g)
{
    turns out = {0};
    int64_t n = 0;
    for (int32_t b = g->first_bucket; b < g->first_bucket + g->n_buckets; b++) {
        const sy_bucket *bucket = &params->bucket[b];
        if (bucket->turn < 0) {
            continue;
        }
        const bool goes_on = b > g->first_bucket && bucket[-1].turn == bucket->turn;
        n = bucket->n + (goes_on ? n : 0);
        out.n += bucket->n;
        out.longest = n > out.longest ? n : out.longest;
    }
    return out;
}

/* Windows are for those whose gradients would take more room than the windows do. */
static turns settle_turns(sy_params *params, const sy_segment *g)
{
    turns out = count_turns(params, g);
    if (2 * out.longest + out.n / sy__replicas(params, g->replicas)->size >= out.n) {
        for (int32_t b = g->first_bucket; b < g->first_bucket + g->n_buckets; b++) {
            params->bucket[b].turn = -1;
        }
        out = (turns){0};
    }
    return out;
}

/* Trainable segments of zero 1 and 2: range r is this rank's part of bucket r. */
static void place_buckets(sy_params *params, const sy_segment *g, turns t)
{
    const sy_comm *replicas = sy__replicas(params, g->replicas);
    int64_t own = 0, window = g->n - t.n, sum = window + 2 * t.longest, begin = 0;
    for (int32_t b = g->first_bucket; b < g->first_bucket + g->n_buckets; b++) {
        sy_bucket *bucket = &params->bucket[b];
        const int64_t part = bucket->n / replicas->size;
        int64_t grad = own, range = own + replicas->rank * part;
        if (bucket->turn >= 0) {
            const bool goes_on = b > g->first_bucket && bucket[-1].turn == bucket->turn;
            begin = goes_on ? begin : bucket->offset;
            grad = window + bucket->turn % 2 * t.longest + bucket->offset - begin;
            range = sum;
            sum += part;
        } else {
            own += bucket->n;
        }
        bucket->grad = at(g->grad, params->wide, grad);
        if (params->zero > 0) {
            params->range[b].grad = at(g->grad, params->wide, range);
        }
    }
}

static void make_view(const sy_params *params, sy_param *p)
{
    const sy_segment *g = &params->segment[p->segment];
    p->grad = sy_tensor_none();
    for (int32_t b = g->first_bucket; b < g->first_bucket + g->n_buckets; b++) {
        const sy_bucket *bucket = &params->bucket[b];
        if (p->offset >= bucket->offset && p->offset < bucket->offset + bucket->n) {
            p->grad = sy_tensor_nd(at(bucket->grad, params->wide, p->offset - bucket->offset),
                                   params->wide, p->box.n_dim, p->box.shape);
        }
    }
}

sy_status sy__params_place_gradients(sy_params *params)
{
    sy_status st = SY_OK;
    for (int32_t s = 0; s < params->n_segments; s++) {
        sy_segment *g = &params->segment[s];
        if (!g->trainable) {
            continue;
        }
        const turns t = settle_turns(params, g);
        g->grad_n = g->n - t.n + 2 * t.longest + t.n / sy__replicas(params, g->replicas)->size;
        SY_TRY(sy_device_alloc(params->dev, g->grad_n * (int64_t)sy_dtype_bytes(params->wide),
                               SY_MEM_GRADS, &g->grad));
        place_buckets(params, g, t);
    }
    for (int32_t i = 0; i < params->n_ranges && params->zero == 0; i++) {
        params->range[i].grad = params->segment[params->range[i].segment].grad;
    }
    for (int32_t i = 0; i < params->n; i++) {
        make_view(params, params->param[i]);
    }
cleanup:
    return st;
}
