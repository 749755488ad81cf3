/* What a configuration may ask of capacity, and what it comes to in words. */
#include <stdio.h>

#include "moe/capacity.h"
#include "moe/capacity_impl.h"
#include "parallel/parallel_config.h"

/* The first key of capacity that says something else than its default; NULL: none does. */
static const char *first_changed(const sy_moe_config *m)
{
    return m->capacity_basis != 0      ? "moe.capacity_basis"
           : m->capacity_rounding != 0 ? "moe.capacity_rounding"
           : m->capacity_multiple > 1  ? "moe.capacity_multiple"
           : m->capacity_group != 0    ? "moe.capacity_group"
           : m->capacity_scope != 0    ? "moe.capacity_scope"
           : m->drop_policy != 0       ? "moe.drop_policy"
           : m->drop_weights != 0      ? "moe.drop_weights"
                                       : NULL;
}

/* A factor that is written down as null is somebody's wish, and a checkpoint writes all keys down.
 */
static bool is_mentioned(const sy_config *config)
{
    return sy_config_was_set(config, "moe.capacity_factor") ||
           sy_config_was_set(config, "moe.eval_capacity_factor");
}

static sy_status check_weights(const sy_moe_config *m, uint32_t traits, const sy_config *config)
{
    if (m->drop_weights != SY_DROPPED_RENORMALIZE) {
        return SY_OK;
    }
    if (traits & SY_ROUTER_FIXED_WEIGHTS) {
        return sy_config_error(config, "moe.drop_weights",
                               "moe.drop_weights renormalize with moe.router %s, whose weights are "
                               "what the method says; set it to keep, or use moe.router topk",
                               m->router);
    }
    if (m->top_k == 1) {
        return sy_config_error(config, "moe.drop_weights",
                               "moe.drop_weights renormalize with moe.top_k 1: the weight would "
                               "always be 1 and the router get no gradient; set it to keep");
    }
    if (!m->normalize_weights) {
        return sy_config_error(config, "moe.drop_weights",
                               "moe.drop_weights renormalize divides by the sum of what is kept, "
                               "and without drops moe.normalize_weights false does not; set that "
                               "to true, or moe.drop_weights to keep");
    }
    return SY_OK;
}

/* Choices that are computed where the token is have rows of their own, which the router gives away
 * itself. */
static sy_status check_local(const sy_moe_config *m, const sy_config *config)
{
    sy_router_layout layout;
    const char *key = m->capacity_group > 0                       ? "moe.capacity_group"
                      : m->capacity_scope == SY_CAPACITY_GLOBAL   ? "moe.capacity_scope"
                      : m->drop_weights == SY_DROPPED_RENORMALIZE ? "moe.drop_weights"
                                                                  : NULL;
    sy_router_layout_of(m, 1, &layout); /* whatever the width */
    if (!layout.copies || key == NULL) {
        return SY_OK;
    }
    return sy_config_error(config, key,
                           "%s with moe.router %s, which gives away the rows of what it computes "
                           "where the token is by itself, in each micro-batch; leave it out",
                           key, m->router);
}

static sy_status check_counts(const sy_moe_config *m, uint32_t traits, const sy_config *config)
{
    if (m->aux_loss_counts == SY_AUX_COUNT_FIRST && traits & SY_ROUTER_OWN_COUNT &&
        !(traits & SY_ROUTER_FIRST_COUNT)) {
        return sy_config_error(config, "moe.aux_loss_counts",
                               "moe.aux_loss_counts first with moe.router %s, which says itself "
                               "what its balance loss counts; set it to all",
                               m->router);
    }
    if (m->aux_loss_counts == SY_AUX_COUNT_FIRST && m->aux_loss_scope == SY_AUX_GLOBAL_BATCH) {
        return sy_config_error(config, "moe.aux_loss_counts",
                               "moe.aux_loss_counts first with moe.aux_loss_scope global_batch, "
                               "which knows the loads of all choices; use sequence or micro_batch");
    }
    return SY_OK;
}

/* A chunk of tokens may have all rows of an expert, so each would be padded to the whole of it. */
static sy_status check_chunks(const sy_moe_config *m, const sy_config *config)
{
    const sy_parallel_config *parallel = sy_config_get(config, "parallel");
    if (!m->pad_to_capacity || parallel == NULL || parallel->overlap_chunks == 1) {
        return SY_OK;
    }
    return sy_config_error(config, "parallel.overlap_chunks",
                           "parallel.overlap_chunks %d with moe.pad_to_capacity true, where every "
                           "chunk would carry as many rows as the micro-batch; set the one to 1 or "
                           "the other to false",
                           parallel->overlap_chunks);
}

sy_status sy__capacity_check(const sy_moe_config *m, uint32_t traits, const sy_config *config)
{
    sy_status st = SY_OK;
    const char *key = first_changed(m);
    if (traits & SY_ROUTER_NO_CAPACITY && key != NULL) {
        SY_TRY(sy_config_error(config, key,
                               "%s with moe.router %s, which drops nothing: how many tokens an "
                               "expert takes is part of the choice, of each micro-batch by itself; "
                               "leave it out, or use moe.router topk",
                               key, m->router));
    }
    if (m->capacity_scope == SY_CAPACITY_GLOBAL && m->capacity_group > 0) {
        SY_TRY(sy_config_error(config, "moe.capacity_group",
                               "moe.capacity_group %d with moe.capacity_scope global: groups lie "
                               "inside a rank's micro-batch, and whole ones do not depend on the "
                               "layout; set capacity_scope to rank, or capacity_group to 0",
                               m->capacity_group));
    }
    if (m->capacity_rounding >= SY_ROUND_PER_CHOICE && m->capacity_basis == SY_BASIS_TOKEN) {
        SY_TRY(sy_config_error(config, "moe.capacity_rounding",
                               "moe.capacity_rounding %s multiplies by moe.top_k, so it goes with "
                               "moe.capacity_basis assignment; for token use floor",
                               m->capacity_rounding == SY_ROUND_PER_CHOICE ? "per_choice"
                                                                           : "per_rank"));
    }
    SY_TRY(check_weights(m, traits, config));
    SY_TRY(check_local(m, config));
    SY_TRY(check_counts(m, traits, config));
    if (key != NULL && !is_mentioned(config)) {
        SY_TRY(sy_config_error(config, key,
                               "%s without moe.capacity_factor: nothing is dropped, so it says "
                               "nothing; set capacity_factor (1.25, say), or leave it out",
                               key));
    }
    SY_TRY(check_chunks(m, config));
cleanup:
    return st;
}

sy_status sy_capacity_check_tokens(const sy_config *config, int64_t T)
{
    const sy_moe_config *m = sy_config_get(config, "moe");
    int64_t below = m->capacity_group, above = m->capacity_group;
    if (m->experts == 0 || m->capacity_group == 0 || m->capacity_group >= T ||
        T % m->capacity_group == 0) {
        return SY_OK;
    }
    while (T % below != 0) {
        below--;
    }
    while (above < T && T % above != 0) {
        above++;
    }
    return sy_config_error(config, "moe.capacity_group",
                           "moe.capacity_group %d does not divide the %ld tokens of a micro-batch "
                           "(train.micro_batch * model.seq_len); the nearest that do are %ld and "
                           "%ld, and 0 is the micro-batch",
                           m->capacity_group, (long)T, (long)below, (long)above);
}

bool sy_capacity_looks_ahead(const sy_moe_config *m)
{
    return m->experts > 0 && (m->capacity_factor.set || m->eval_capacity_factor.set) &&
           (m->drop_policy == SY_DROP_PROBABILITY || m->drop_policy == SY_DROP_BATCH_PRIORITY);
}

/* "40 rows per expert", or "dropless". */
static void describe_one(const sy_moe_config *m, bool eval, int64_t T, char *buf, size_t n)
{
    const sy_opt_f64 factor = eval ? m->eval_capacity_factor : m->capacity_factor;
    if (factor.set) {
        snprintf(buf, n, "%ld rows per expert", (long)sy_capacity_slots(m, eval, T));
    } else {
        snprintf(buf, n, "dropless");
    }
}

int64_t sy_capacity_tokens(const sy_moe_config *m, int64_t T, int32_t n_ranks)
{
    if (m->capacity_scope == SY_CAPACITY_GLOBAL) {
        return T * n_ranks;
    }
    return m->capacity_group > 0 && m->capacity_group < T ? m->capacity_group : T;
}

void sy_capacity_describe(const sy_moe_config *m, int64_t T, int32_t n_ranks, char *buf, size_t n)
{
    static const char *const orders[] = {"by position", "by probability", "batch-prioritised",
                                         "by token", "by lot"};
    const int64_t counted = sy_capacity_tokens(m, T, n_ranks);
    char train[64], eval[64];
    describe_one(m, false, counted, train, sizeof train);
    describe_one(m, true, counted, eval, sizeof eval);
    if (!m->capacity_factor.set && !m->eval_capacity_factor.set) {
        snprintf(buf, n, "dropless");
        return;
    }
    snprintf(buf, n, "%s of %ld tokens, %s; eval: %s", train, (long)counted, orders[m->drop_policy],
             eval);
}
