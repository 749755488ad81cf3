#include "train/rehearsal.h"

#include <string.h>

#include "backend/prices.h"
#include "core/alloc.h"
#include "moe/exchange.h"

/* Where the prices are asked, what was asked is added up. */
typedef struct tally {
    const sy_machine *machine;
    sy_cost_sum cost[2][SY_N_COSTS];
    sy_traffic_sum traffic[SY_MAX_TRAFFIC];
    int32_t n_traffic;
} tally;

static double charge(tally *t, const sy_work *w)
{
    const double seconds = sy_work_seconds(t->machine, w);
    sy_cost_sum *sum = &t->cost[w->narrow][w->kind];
    sum->calls += 1;
    sum->flops += w->flops;
    sum->bytes += w->bytes + w->weights;
    sum->seconds += seconds;
    return seconds;
}

static double price_op(void *self, sy_op op, const void *args)
{
    const sy_work w = sy_work_of(op, args);
    return charge(self, &w);
}

static double price_copy(void *self, int64_t bytes, bool zero)
{
    const sy_work w = sy_work_copy(bytes, zero);
    return charge(self, &w);
}

static sy_traffic_sum *entry_of(tally *t, const sy_traffic *traffic)
{
    int32_t i = 0;
    while (i < t->n_traffic && (strcmp(t->traffic[i].traffic.what, traffic->what) != 0 ||
                                t->traffic[i].traffic.size != traffic->size ||
                                t->traffic[i].traffic.stride != traffic->stride)) {
        i++;
    }
    if (i == t->n_traffic && i < SY_MAX_TRAFFIC) {
        t->traffic[t->n_traffic++] = (sy_traffic_sum){.traffic = *traffic};
    }
    return &t->traffic[i < SY_MAX_TRAFFIC ? i : SY_MAX_TRAFFIC - 1];
}

static double price_traffic(void *self, const sy_traffic *traffic)
{
    tally *t = self;
    const double seconds = sy_traffic_seconds(t->machine, traffic);
    sy_traffic_sum *sum = entry_of(t, traffic);
    sum->calls += 1;
    sum->bytes += (double)traffic->bytes;
    sum->sent += sy_traffic_sent(traffic);
    sum->seconds += seconds;
    return seconds;
}

static void clear(tally *t)
{
    *t = (tally){.machine = t->machine};
}

/* ---- a step ---- */

/* Where only shapes are looked at. */
static sy_batch batch_without_contents(int32_t B, int32_t S)
{
    static const int32_t nothing[1] = {0};
    static const int64_t numbers[1] = {0};
    return (sy_batch){
        .B = B, .S = S, .ids = nothing, .targets = nothing, .pos = nothing, .token_glb = numbers};
}

enum { SIMULATED = 3 };

/* Sequences in this rank's last micro-batch: rank 0 has no fewer than any other. */
static int32_t last_sequences(const sy_rehearsal_spec *spec, int32_t rounds)
{
    const int64_t B = spec->settings->train->micro_batch;
    const int64_t before = (int64_t)(rounds - 1) * spec->ranks * B;
    const int64_t left = spec->settings->train->global_batch - before;
    return (int32_t)(left < B ? left : B);
}

static double rows_waited(const sy_trainer *trainer)
{
    const sy_travel *travel = trainer->engine->travel;
    return travel != NULL ? travel->waited_s : 0;
}

static sy_status run_step(sy_trainer *trainer, tally *t, const sy_rehearsal_spec *spec,
                          int32_t rounds, int32_t n, sy_rehearsal *out)
{
    sy_status st = SY_OK;
    const sy_run_settings *s = spec->settings;
    sy_batch micro[SIMULATED];
    sy_step_batch batch = {.micro = micro, .n_micro = n, .n_sequences = s->train->global_batch};
    sy_step_result r;
    for (int32_t i = 0; i < n; i++) {
        int32_t B = i == n - 1 ? last_sequences(spec, rounds) : s->train->micro_batch;
        micro[i] = batch_without_contents(B, s->model->seq_len);
    }
    clear(t);
    out->rows_waited_s = -rows_waited(trainer);
    SY_TRY(sy_trainer_rehearse(trainer, &batch, &r));
    out->rows_waited_s += rows_waited(trainer);
    out->step_s = r.step_s;
    out->dispatch_s = r.dispatch_s;
    out->experts_s = r.experts_s;
    out->combine_s = r.combine_s;
    out->time = r.time;
    memcpy(out->cost, t->cost, sizeof out->cost);
    memcpy(out->traffic, t->traffic, sizeof out->traffic);
    out->n_traffic = t->n_traffic;
cleanup:
    return st;
}

/* ---- many micro-batches ---- */

/* x of a step with two, and y of one with three: the third is one of those in between. */
static void extend(double *x, double y, double times)
{
    *x += times * (y - *x);
}

static void extend_sum(sy_cost_sum *x, const sy_cost_sum *y, double times)
{
    extend(&x->calls, y->calls, times);
    extend(&x->flops, y->flops, times);
    extend(&x->bytes, y->bytes, times);
    extend(&x->seconds, y->seconds, times);
}

static void extend_traffic(sy_rehearsal *x, const sy_rehearsal *y, double times)
{
    for (int32_t i = 0; i < x->n_traffic; i++) { /* the same calls in the same order */
        sy_traffic_sum *a = &x->traffic[i];
        const sy_traffic_sum *b = &y->traffic[i];
        extend(&a->calls, b->calls, times);
        extend(&a->bytes, b->bytes, times);
        extend(&a->sent, b->sent, times);
        extend(&a->seconds, b->seconds, times);
    }
}

static void extend_step(sy_rehearsal *x, const sy_rehearsal *y, double times)
{
    sy_step_times *a = &x->time;
    const sy_step_times *b = &y->time;
    extend(&x->step_s, y->step_s, times);
    extend(&x->dispatch_s, y->dispatch_s, times);
    extend(&x->experts_s, y->experts_s, times);
    extend(&x->combine_s, y->combine_s, times);
    extend(&x->rows_waited_s, y->rows_waited_s, times);
    extend(&a->sync_s, b->sync_s, times);
    extend(&a->forward_s, b->forward_s, times);
    extend(&a->backward_s, b->backward_s, times);
    extend(&a->grad_sync_wait_s, b->grad_sync_wait_s, times);
    extend(&a->optimizer_s, b->optimizer_s, times);
    extend(&a->param_gather_s, b->param_gather_s, times);
    for (int32_t narrow = 0; narrow < 2; narrow++) {
        for (int32_t kind = 0; kind < SY_N_COSTS; kind++) {
            extend_sum(&x->cost[narrow][kind], &y->cost[narrow][kind], times);
        }
    }
    extend_traffic(x, y, times);
}

static sy_status run_steps(sy_trainer *trainer, tally *t, const sy_rehearsal_spec *spec,
                           sy_rehearsal *out)
{
    sy_status st = SY_OK;
    const int32_t rounds = out->rounds;
    sy_rehearsal *more = NULL;
    if (spec->settings->parallel->zero > 0) { /* its values travel beside the next step */
        SY_TRY(run_step(trainer, t, spec, rounds, 1, out));
    }
    SY_TRY(run_step(trainer, t, spec, rounds, rounds < 2 ? rounds : 2, out));
    if (rounds > 2) {
        SY_TRY(sy_alloc(1, sizeof *more, (void **)&more));
        SY_TRY(run_step(trainer, t, spec, rounds, SIMULATED, more));
        extend_step(out, more, rounds - 2);
    }
cleanup:
    sy_free(&more);
    return st;
}

/* ---- the whole ---- */

static void describe(const sy_trainer *trainer, const sy_rehearsal_spec *spec, sy_rehearsal *out)
{
    const sy_engine *e = trainer->engine;
    const sy_run_settings *s = spec->settings;
    const int64_t per_round = (int64_t)s->train->micro_batch * spec->ranks;
    out->rounds = (int32_t)((s->train->global_batch + per_round - 1) / per_round);
    out->params = sy_params_count(e->params, false);
    out->mtp_params = sy_engine_mtp_params(e);
    out->flops_per_token = sy_engine_flops_per_token(e, &out->active_params);
    out->tokens = (int64_t)s->train->global_batch * s->model->seq_len;
    memcpy(out->memory, e->dev->ledger.now, sizeof out->memory);
    const int64_t workspace = out->memory[SY_MEM_WORKSPACE];
    out->memory[SY_MEM_WORKSPACE] = (int64_t)(spec->machine->workspace_share * (double)workspace);
    out->memory_total = e->predicted_bytes - workspace + out->memory[SY_MEM_WORKSPACE];
}

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* Gradients and parameters travel on a stream of their own, and rows where they have one and it
   is one; whatever else does is waited for. */
static void add_exchange(sy_rehearsal *out, bool rows_apart)
{
    out->exposed_s = out->time.grad_sync_wait_s + out->time.param_gather_s + out->rows_waited_s;
    for (int32_t i = 0; i < out->n_traffic; i++) {
        const sy_traffic_sum *sum = &out->traffic[i];
        const char *what = sum->traffic.what;
        const bool rows = begins(what, "moe dispatch") || begins(what, "moe combine");
        const bool beside = strcmp(what, "gradients") == 0 || strcmp(what, "parameters") == 0 ||
                            (rows && rows_apart);
        out->exchange_s += sum->traffic.device ? sum->seconds : 0;
        out->exposed_s += sum->traffic.device && !beside ? sum->seconds : 0;
    }
}

sy_status sy_rehearse(const sy_rehearsal_spec *spec, sy_rehearsal *out)
{
    sy_status st = SY_OK;
    const sy_machine *m = spec->machine;
    tally *t = NULL;
    sy_comm *world = NULL;
    sy_trainer *trainer = NULL;
    sy_prices prices = {.op = price_op,
                        .copy = price_copy,
                        .launch_s = m->launch_s,
                        .wait_s = m->wait_s,
                        .imbalance = spec->imbalance,
                        .at_once = !m->gpu};
    sy_net net = {.seconds = price_traffic};
    sy_trainer_spec trainer_spec = {.settings = spec->settings, .threads = 1, .prices = &prices};
    SY_TRY(sy_alloc(1, sizeof *t, (void **)&t));
    t->machine = m;
    prices.self = net.self = t;
    SY_TRY(sy_comm_rehearse(spec->ranks, 0, &net, &world));
    trainer_spec.world = world;
    SY_TRY(sy_trainer_create(&trainer_spec, &trainer));
    memset(out, 0, sizeof *out);
    describe(trainer, spec, out);
    SY_TRY(run_steps(trainer, t, spec, out));
    add_exchange(out, trainer->engine->travel != NULL && m->gpu);
cleanup:
    sy_trainer_destroy(&trainer);
    sy_comm_destroy(&world);
    sy_free(&t);
    return st;
}

double sy_rehearsal_rate(const sy_rehearsal *r)
{
    return r->step_s > 0 ? (double)r->tokens / r->step_s : 0;
}

double sy_rehearsal_mfu(const sy_rehearsal *r, const sy_rehearsal_spec *spec)
{
    sy_dtype dtype = SY_F32;
    if (sy_device_config_dtype(spec->settings->config, "cpu", &dtype) != SY_OK) {
        return 0;
    }
    return sy_rehearsal_rate(r) * r->flops_per_token /
           (spec->machine->peak_flops[dtype == SY_BF16] * spec->ranks);
}
