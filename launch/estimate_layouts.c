/* Which expert parallelism and micro-batch fit, and how the best goes on over more ranks. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "launch/estimate_impl.h"

enum { MAX_MICRO = 8, NOTE_BYTES = 160, FIRST_RANKS = 8, LAST_RANKS = 4096 };

static double gib(double bytes)
{
    return bytes / (double)(1 << 30);
}

/* ---- the table ---- */

/* Does less saved memory help? */
static sy_status note_missing(const sy__estimate *e, const sy__variant *v, const sy_rehearsal *r,
                              const char *recompute, char note[NOTE_BYTES])
{
    sy_status st = SY_OK;
    sy_rehearsal *again = NULL;
    sy__variant block = *v;
    const double needs = (double)r->memory_total + e->machine.outside_bytes;
    int n = snprintf(note, NOTE_BYTES, "%.1f GiB do not fit into %.1f", gib(needs),
                     gib(e->machine.memory_bytes));
    if (strcmp(recompute, "block") != 0) {
        SY_TRY(sy_alloc(1, sizeof *again, (void **)&again));
        block.recompute = "block";
        SY_TRY(sy__estimate_run(e, &block, again));
        const double then = (double)again->memory_total + e->machine.outside_bytes;
        snprintf(note + n, (size_t)(NOTE_BYTES - n), "; with train.recompute=block %.1f%s",
                 gib(then), sy__estimate_fits(e, again) ? ", which do" : "");
    }
cleanup:
    sy_free(&again);
    return st;
}

static const char *recompute_name(const sy_run_settings *s)
{
    static const char *const names[] = {"none", "moe", "block"};
    return names[s->train->recompute];
}

static sy_status add_layout(const sy__estimate *e, const sy_run_settings *s, const sy__variant *v,
                            json_t *rows, double *best_rate, sy__variant *best)
{
    sy_status st = SY_OK;
    sy_rehearsal *r = NULL;
    char note[NOTE_BYTES] = "";
    sy_rehearsal_spec spec = {.settings = s, .machine = &e->machine, .ranks = e->ranks};
    SY_TRY(sy_alloc(1, sizeof *r, (void **)&r));
    SY_TRY(sy__estimate_run(e, v, r));
    const bool fits = sy__estimate_fits(e, r);
    const double rate = sy_rehearsal_rate(r);
    if (!fits) {
        SY_TRY(note_missing(e, v, r, recompute_name(s), note));
    } else if (rate > *best_rate) {
        *best_rate = rate;
        *best = *v;
    }
    json_array_append_new(
        rows, json_pack("{s:i, s:i, s:i, s:f, s:b, s:f, s:f, s:f, s:s}", "ep", v->ep, "micro_batch",
                        v->micro_batch, "rounds", r->rounds, "memory_gib",
                        gib((double)r->memory_total + e->machine.outside_bytes), "fits", fits,
                        "step_ms", 1e3 * r->step_s, "tokens_per_s", rate, "mfu_percent",
                        100 * sy_rehearsal_mfu(r, &spec), "note", note));
cleanup:
    sy_free(&r);
    return st;
}

/* Micro-batches: powers of two that leave every rank one, and the configuration's own. */
static int32_t list_micro(const sy_run_settings *s, int32_t ranks, int32_t list[MAX_MICRO])
{
    int32_t n = 0;
    const int32_t own = s->train->micro_batch;
    for (int64_t B = 1; n < MAX_MICRO - 1; B *= 2) {
        if (B > 1 && B * ranks > s->train->global_batch) {
            break;
        }
        if (own < B && (n == 0 || list[n - 1] < own)) {
            list[n++] = own;
        }
        list[n++] = (int32_t)B;
    }
    if (n < MAX_MICRO && list[n - 1] < own) {
        list[n++] = own;
    }
    return n;
}

sy_status sy__estimate_layouts(const sy__estimate *e, json_t *rows, sy__variant *best)
{
    sy_status st = SY_OK;
    sy_run_settings s = {0};
    int32_t micro[MAX_MICRO], n_micro = 0, most_ep = 1;
    double best_rate = 0;
    SY_TRY(sy__estimate_settings(e, &(sy__variant){0}, &s));
    n_micro = list_micro(&s, e->ranks, micro);
    most_ep = s.moe->experts > 0 ? s.moe->experts : s.parallel->ep;
    for (int32_t ep = s.moe->experts > 0 ? 1 : most_ep; ep <= most_ep; ep++) {
        if (e->ranks % ep != 0 || (s.moe->experts > 0 && s.moe->experts % ep != 0)) {
            continue;
        }
        for (int32_t i = 0; i < n_micro; i++) {
            sy__variant v = {.ep = ep, .micro_batch = micro[i]};
            SY_TRY(add_layout(e, &s, &v, rows, &best_rate, best));
        }
    }
cleanup:
    sy_run_settings_free(&s);
    return st;
}

/* ---- nothing fits ---- */

/* The largest ep that the ranks and experts allow. */
static int32_t largest_ep(const sy_run_settings *s, int32_t ranks)
{
    int32_t ep = s->moe->experts;
    while (ep > 1 && (ranks % ep != 0 || s->moe->experts % ep != 0)) {
        ep--;
    }
    return ep > 0 ? ep : s->parallel->ep;
}

sy_status sy__estimate_missing(const sy__estimate *e, char **out)
{
    sy_status st = SY_OK;
    sy_run_settings s = {0};
    sy_rehearsal *r = NULL;
    sy__variant v = {.micro_batch = 1, .recompute = "block", .zero2 = true};
    SY_TRY(sy_alloc(1, sizeof *r, (void **)&r));
    SY_TRY(sy__estimate_settings(e, &(sy__variant){0}, &s));
    v.ep = largest_ep(&s, e->ranks);
    SY_TRY(sy__estimate_run(e, &v, r));
    const double room = e->machine.memory_bytes - e->machine.outside_bytes;
    const double params = (double)r->memory[SY_MEM_PARAMS], grads = (double)r->memory[SY_MEM_GRADS];
    const double optim = (double)r->memory[SY_MEM_OPTIM], all = (double)r->memory_total;
    const double zero3 = all - params * (1 - 1.0 / e->ranks * v.ep);
    const bool enough = all <= room;
    SY_TRY(sy_asprintf(
        out,
        "The smallest layout (ep %d, micro-batch 1, train.recompute=block, parallel.zero=2) needs "
        "%.1f GiB on each rank: parameters %.1f, gradients %.1f, optimizer %.1f, the rest %.1f; "
        "%.1f are free.%s ZeRO-3 (parameters shared out too) would leave %.1f; tensor or pipeline "
        "parallelism over %.0f ranks would leave %.1f. Switchyard has none of these: take more "
        "ranks, a GPU with more memory, or a smaller model.",
        v.ep, gib(all), gib(params), gib(grads), gib(optim), gib(all - params - grads - optim),
        gib(room), enough ? " It fits: set them." : "", gib(zero3),
        all > room ? (double)(int64_t)(all / room + 1) : 2.0,
        gib(all / (all > room ? (double)(int64_t)(all / room + 1) : 2.0))));
cleanup:
    sy_run_settings_free(&s);
    sy_free(&r);
    return st;
}

/* ---- more ranks ---- */

/* The layout's ep, or the largest below it that so many ranks and the experts allow. */
static int32_t ep_for(const sy_run_settings *s, int32_t ranks)
{
    const int32_t experts = s->moe->experts;
    int32_t ep = s->parallel->ep;
    while (ep > 1 && (ranks % ep != 0 || (experts > 0 && experts % ep != 0))) {
        ep--;
    }
    return ep;
}

sy_status sy__estimate_scaling(const sy__estimate *e, const sy__variant *layout, json_t *rows)
{
    sy_status st = SY_OK;
    sy_run_settings s = {0};
    sy_rehearsal *r = NULL;
    SY_TRY(sy_alloc(1, sizeof *r, (void **)&r));
    SY_TRY(sy__estimate_settings(e, layout, &s));
    for (int32_t ranks = FIRST_RANKS; ranks <= LAST_RANKS; ranks *= 2) {
        const double batch = (double)s.train->global_batch / e->ranks * ranks;
        sy__variant v = *layout;
        sy_rehearsal_spec spec = {.settings = &s, .machine = &e->machine, .ranks = ranks};
        if (batch > 1 << 24) {
            continue;
        }
        v.ranks = ranks;
        v.ep = ep_for(&s, ranks);
        v.global_batch = batch < 1 ? 1 : (int32_t)batch;
        SY_TRY(sy__estimate_run(e, &v, r));
        json_array_append_new(
            rows, json_pack("{s:i, s:i, s:i, s:f, s:b, s:f, s:f, s:f}", "gpus", ranks, "ep", v.ep,
                            "global_batch", v.global_batch, "memory_gib",
                            gib((double)r->memory_total + e->machine.outside_bytes), "fits",
                            sy__estimate_fits(e, r), "step_ms", 1e3 * r->step_s, "tokens_per_s",
                            sy_rehearsal_rate(r), "mfu_percent", 100 * sy_rehearsal_mfu(r, &spec)));
    }
cleanup:
    sy_run_settings_free(&s);
    sy_free(&r);
    return st;
}
