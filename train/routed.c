#include "train/routed.h"

#include <stdio.h>
#include <string.h>

int32_t sy_routed_groups(const sy_run_settings *settings)
{
    const sy_moe_config *moe = settings->moe;
    return moe->experts > 0 && moe->expert_labels.n > 0 ? moe->expert_labels.n : moe->experts;
}

const char *sy_routed_name(const sy_run_settings *settings, int32_t group, char *buf)
{
    const sy_str_list *labels = &settings->moe->expert_labels;
    if (labels->n > 0) {
        return labels->item[group];
    }
    snprintf(buf, SY_EXPERT_LABEL + 1, "%d", group);
    return buf;
}

void sy_routed_shares(const sy_engine *engine, int32_t layer, double *share)
{
    const sy_run_settings *s = engine->settings;
    const int32_t n = sy_routed_groups(s);
    const int64_t E = s->moe->experts, L = s->model->layers;
    const int64_t begin = layer < 0 ? 0 : layer * E, end = layer < 0 ? L * E : begin + E;
    double all = 0;
    memset(share, 0, (size_t)n * sizeof *share);
    for (int64_t i = begin; i < end; i++) {
        share[i % E % n] += (double)engine->h_loads[i];
        all += (double)engine->h_loads[i];
    }
    for (int32_t g = 0; g < n && all > 0; g++) {
        share[g] /= all;
    }
}
