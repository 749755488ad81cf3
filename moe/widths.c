#include "moe/widths.h"

#include "model/model_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WIDTH = 1 << 22 };

/* "arithmetic:9:23", "geometric:4:32": the narrowest and the widest expert. */
typedef struct series {
    bool geometric;
    long first, last;
} series;

/* A number behind a colon, or the only one; 0 if it is none. */
static long width_of(const char *text, char **end)
{
    long n = 0;
    *end = (char *)(uintptr_t)text;
    if (*text >= '0' && *text <= '9') {
        n = strtol(text, end, 10);
    }
    return n >= 1 && n <= MAX_WIDTH ? n : 0;
}

static bool read_series(const char *text, series *out)
{
    const char *colon = strchr(text, ':');
    char *end = NULL;
    if (colon == NULL) {
        return false;
    }
    out->geometric = strncmp(text, "geometric:", 10) == 0;
    if (!out->geometric && strncmp(text, "arithmetic:", 11) != 0) {
        return false;
    }
    out->first = width_of(colon + 1, &end);
    out->last = *end == ':' ? width_of(end + 1, &end) : 0;
    return out->first > 0 && out->last > 0 && *end == '\0';
}

static long listed(const char *text)
{
    char *end = NULL;
    const long n = width_of(text, &end);
    return *end == '\0' ? n : 0;
}

bool sy_moe_has_widths(const sy_moe_config *config)
{
    return config->experts > 0 && config->expert_widths.n > 0;
}

int32_t sy_moe_width(const sy_moe_config *config, int32_t e)
{
    const sy_str_list *list = &config->expert_widths;
    series s;
    if (!sy_moe_has_widths(config)) {
        return config->expert_hidden;
    }
    if (list->n == 1 && read_series(list->item[0], &s)) {
        const double at = config->experts > 1 ? (double)e / (config->experts - 1) : 1;
        const double from = (double)s.first, to = (double)s.last;
        return (int32_t)lround(s.geometric ? from * pow(to / from, at) : from + at * (to - from));
    }
    return (int32_t)listed(list->item[e]);
}

double sy_moe_mean_width(const sy_moe_config *config)
{
    double sum = 0;
    for (int32_t e = 0; e < config->experts; e++) {
        sum += sy_moe_width(config, e);
    }
    return config->experts > 0 ? sum / config->experts : 0;
}

static sy_status check_list(const sy_moe_config *m, const sy_config *config)
{
    sy_status st = SY_OK;
    const sy_str_list *list = &m->expert_widths;
    series s;
    if (list->n == 1 && read_series(list->item[0], &s)) {
        return SY_OK;
    }
    for (int32_t i = 0; i < list->n; i++) {
        if (listed(list->item[i]) == 0) {
            SY_TRY(sy_config_error(config, "moe.expert_widths",
                                   "moe.expert_widths '%s' is not arithmetic:FIRST:LAST, "
                                   "geometric:FIRST:LAST or a list of widths from 1",
                                   list->item[i]));
        }
    }
    if (list->n != m->experts) {
        SY_TRY(sy_config_error(config, "moe.expert_widths",
                               "moe.expert_widths lists %d widths for moe.experts %d; give one for "
                               "each, or arithmetic:FIRST:LAST",
                               list->n, m->experts));
    }
cleanup:
    return st;
}

static sy_status check_partners(const sy_moe_config *m, int32_t widest, const sy_config *config)
{
    if (m->expert_hidden != 0 && m->expert_hidden != widest) {
        return sy_config_error(config, "moe.expert_hidden",
                               "moe.expert_hidden %d with moe.expert_widths, whose widest expert "
                               "has %d units: leave one of them out",
                               m->expert_hidden, widest);
    }
    const sy_model_config *model = sy_config_get(config, "model");
    if (model->activation != SY_ACT_SWIGLU) {
        return sy_config_error(config, "moe.expert_widths",
                               "moe.expert_widths is for SwiGLU experts; set model.activation to "
                               "swiglu, or leave the widths out");
    }
    return SY_OK;
}

sy_status sy_moe_widths_settle(sy_config *config)
{
    sy_status st = SY_OK;
    const sy_moe_config *m = sy_config_get(config, "moe");
    int32_t widest = 0;
    char text[32];
    if (!sy_moe_has_widths(m)) {
        return !m->width_penalty
                   ? SY_OK
                   : sy_config_error(config, "moe.width_penalty",
                                     "moe.width_penalty needs moe.expert_widths: experts of one "
                                     "width cost alike; set it to false");
    }
    SY_TRY(check_list(m, config));
    for (int32_t e = 0; e < m->experts; e++) {
        const int32_t width = sy_moe_width(m, e);
        widest = width > widest ? width : widest;
    }
    SY_TRY(check_partners(m, widest, config));
    snprintf(text, sizeof text, "%d", widest);
    SY_TRY(sy_config_default(config, "moe.expert_hidden", text));
cleanup:
    return st;
}
