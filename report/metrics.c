/* The record of one step: slots that keep their key and memory from step to step. */
#include "report/metrics.h"

#include <string.h>

#include "core/alloc.h"
#include "report/metrics_impl.h"

sy_status sy_metrics_create(sy_metrics **out)
{
    return sy_alloc(1, sizeof **out, (void **)out);
}

void sy_metrics_destroy(sy_metrics **metrics)
{
    if (*metrics == NULL) {
        return;
    }
    for (int32_t i = 0; i < (*metrics)->n; i++) {
        sy_free(&(*metrics)->item[i].array);
        sy_free(&(*metrics)->item[i].key);
    }
    sy_free(&(*metrics)->item);
    sy_free(metrics);
}

void sy_metrics_clear(sy_metrics *metrics)
{
    for (int32_t i = 0; i < metrics->n; i++) {
        metrics->item[i].kind = SY__METRIC_UNSET;
    }
    metrics->next = 0;
}

static sy_status add_slot(sy_metrics *m, const char *key, sy__metric **out)
{
    sy_status st = SY_OK;
    if (m->n == m->n_max) {
        int32_t n_max = 2 * m->n_max + 32;
        SY_TRY(sy_realloc(n_max, sizeof *m->item, (void **)&m->item));
        m->n_max = n_max;
    }
    sy__metric *slot = &m->item[m->n];
    memset(slot, 0, sizeof *slot);
    SY_TRY(sy_strdup(key, &slot->key));
    m->n++;
    *out = slot;
cleanup:
    return st;
}

/* The slot of a key. Looking on from the last hit makes a warm step linear in its keys. */
static sy_status find_slot(sy_metrics *m, const char *key, sy__metric **out)
{
    for (int32_t i = 0; i < m->n; i++) {
        int32_t at = (m->next + i) % m->n;
        if (strcmp(m->item[at].key, key) == 0) {
            m->next = (at + 1) % m->n;
            *out = &m->item[at];
            return SY_OK;
        }
    }
    return add_slot(m, key, out);
}

sy_status sy_metrics_set_f64(sy_metrics *metrics, const char *key, double value)
{
    sy_status st = SY_OK;
    sy__metric *slot;
    SY_TRY(find_slot(metrics, key, &slot));
    slot->kind = SY__METRIC_F64;
    slot->f64 = value;
cleanup:
    return st;
}

sy_status sy_metrics_set_i64(sy_metrics *metrics, const char *key, int64_t value)
{
    sy_status st = SY_OK;
    sy__metric *slot;
    SY_TRY(find_slot(metrics, key, &slot));
    slot->kind = SY__METRIC_I64;
    slot->i64 = value;
cleanup:
    return st;
}

sy_status sy_metrics_set_array(sy_metrics *metrics, const char *key, const double *values,
                               int64_t n)
{
    sy_status st = SY_OK;
    sy__metric *slot;
    SY_TRY(find_slot(metrics, key, &slot));
    if (n > slot->n_max) {
        SY_TRY(sy_realloc(n, sizeof *slot->array, (void **)&slot->array));
        slot->n_max = n;
    }
    if (n > 0) {
        memcpy(slot->array, values, (size_t)n * sizeof *values);
    }
    slot->kind = SY__METRIC_ARRAY;
    slot->n = n;
cleanup:
    return st;
}

static void write_value(sy_text *text, const sy__metric *metric)
{
    switch (metric->kind) {
    case SY__METRIC_I64:
        sy_text_printf(text, "%lld", (long long)metric->i64);
        break;
    case SY__METRIC_ARRAY:
        sy_text_puts(text, "[");
        for (int64_t i = 0; i < metric->n; i++) {
            sy_text_puts(text, i > 0 ? "," : "");
            sy_text_json_f64(text, metric->array[i]);
        }
        sy_text_puts(text, "]");
        break;
    default:
        sy_text_json_f64(text, metric->f64);
        break;
    }
}

void sy__metrics_line(sy_text *text, int64_t step, const sy_metrics *metrics)
{
    sy_text_printf(text, "{\"step\":%lld", (long long)step);
    for (int32_t i = 0; i < metrics->n; i++) {
        if (metrics->item[i].kind != SY__METRIC_UNSET) {
            sy_text_puts(text, ",");
            sy_text_json(text, metrics->item[i].key);
            sy_text_puts(text, ":");
            write_value(text, &metrics->item[i]);
        }
    }
    sy_text_puts(text, "}\n");
}
