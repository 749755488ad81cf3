/* Where the choices of each validation set went, label by label (moe.expert_labels): after
   Branch-Train-MiX, which domain goes to which source's experts. A matrix of the last evaluation,
   and its course. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "report/html_impl.h"

enum { NAME_BYTES = 128 };

/* "valid/<set>/routed/<label>", "valid/<set>/layer_<i>/routed/<label>". */
typedef struct cell {
    char set[NAME_BYTES];
    int32_t layer; /* -1: all together */
    const char *label;
    const sy_series *series;
} cell;

typedef struct routed {
    cell *cell; /* [n] in the order of the log: a set's labels stand together */
    int32_t n;
    const char **label; /* [n_labels] */
    int32_t n_labels;
} routed;

static bool read_key(const sy_series *series, cell *out)
{
    static const char head[] = "valid/", tail[] = "/routed/";
    const char *set = series->key + sizeof head - 1, *at = strstr(series->key, tail), *slash;
    int n_read = 0;
    if (strncmp(series->key, head, sizeof head - 1) != 0 || at == NULL || at <= set ||
        series->width != 0 || series->n == 0) {
        return false;
    }
    slash = memchr(set, '/', (size_t)(at - set));
    *out = (cell){.layer = -1, .label = at + sizeof tail - 1, .series = series};
    snprintf(out->set, sizeof out->set, "%.*s", (int)((slash != NULL ? slash : at) - set), set);
    return slash == NULL ||
           (sscanf(slash, "/layer_%7d%n", &out->layer, &n_read) == 1 && slash + n_read == at);
}

static bool is_known(const routed *r, const char *label)
{
    for (int32_t i = 0; i < r->n_labels; i++) {
        if (strcmp(r->label[i], label) == 0) {
            return true;
        }
    }
    return false;
}

static sy_status collect(const sy__page *page, routed *r)
{
    sy_status st = SY_OK;
    SY_TRY(sy_alloc(page->log->n, sizeof *r->cell, (void **)&r->cell));
    SY_TRY(sy_alloc(page->log->n, sizeof *r->label, (void **)&r->label));
    for (int32_t i = 0; i < page->log->n; i++) {
        if (read_key(&page->log->series[i], &r->cell[r->n])) {
            const char *label = r->cell[r->n++].label;
            if (!is_known(r, label)) {
                r->label[r->n_labels++] = label;
            }
        }
    }
cleanup:
    return st;
}

/* The cell of a row's set and layer in this column; NULL: nothing was logged. */
static const cell *find(const routed *r, const cell *row, const char *label)
{
    for (int32_t i = 0; i < r->n; i++) {
        const cell *c = &r->cell[i];
        if (c->layer == row->layer && strcmp(c->set, row->set) == 0 &&
            strcmp(c->label, label) == 0) {
            return c;
        }
    }
    return NULL;
}

/* The first of its set and layer. */
static bool begins_row(const routed *r, int32_t i)
{
    for (int32_t k = 0; k < i; k++) {
        if (r->cell[k].layer == r->cell[i].layer && strcmp(r->cell[k].set, r->cell[i].set) == 0) {
            return false;
        }
    }
    return true;
}

static void write_row(sy_text *out, const routed *r, const cell *row)
{
    sy_text_puts(out, "<tr><td>");
    sy_text_html(out, row->set);
    if (row->layer >= 0) {
        sy_text_printf(out, " <small>layer %d</small>", row->layer);
    }
    sy_text_puts(out, "</td>");
    for (int32_t l = 0; l < r->n_labels; l++) {
        const cell *c = find(r, row, r->label[l]);
        if (c == NULL) {
            sy_text_puts(out, "<td></td>");
        } else { /* the ink stays readable on a full cell */
            sy_text_printf(out, "<td style=\"--share:%.0f%%\">%.1f %%</td>", 60 * c->series->last,
                           100 * c->series->last);
        }
    }
    sy_text_puts(out, "</tr>\n");
}

/* Rows of all layers together, or of each. */
static void write_matrix(sy_text *out, const routed *r, bool by_layer)
{
    sy_text_puts(out, "<div class=\"scroll\">\n<table class=\"share\">\n<tr><th></th>");
    for (int32_t l = 0; l < r->n_labels; l++) {
        sy_text_puts(out, "<th>");
        sy_text_html(out, r->label[l]);
        sy_text_puts(out, "</th>");
    }
    sy_text_puts(out, "</tr>\n");
    for (int32_t i = 0; i < r->n; i++) {
        if ((r->cell[i].layer >= 0) == by_layer && begins_row(r, i)) {
            write_row(out, r, &r->cell[i]);
        }
    }
    sy_text_puts(out, "</table>\n</div>\n");
}

static sy_status write_courses(const sy__page *page, const routed *r)
{
    sy_status st = SY_OK;
    const sy_series **series = NULL;
    const char **label = NULL;
    char title[NAME_BYTES + 32];
    SY_TRY(sy_alloc(r->n_labels, sizeof *series, (void **)&series));
    SY_TRY(sy_alloc(r->n_labels, sizeof *label, (void **)&label));
    for (int32_t i = 0; i < r->n; i++) {
        const cell *row = &r->cell[i];
        int32_t n = 0;
        for (int32_t l = 0; l < r->n_labels && row->layer < 0 && begins_row(r, i); l++) {
            const cell *c = find(r, row, r->label[l]);
            if (c != NULL) {
                label[n] = r->label[l];
                series[n++] = c->series;
            }
        }
        snprintf(title, sizeof title, "%s goes to", row->set);
        SY_TRY(n > 0 ? sy__page_shares(page, title, series, label, n, 1.0 / r->n_labels) : SY_OK);
    }
cleanup:
    sy_free(&label);
    sy_free(&series);
    return st;
}

sy_status sy__page_routed(const sy__page *page)
{
    sy_status st = SY_OK;
    routed r = {0};
    sy_text *out = page->out;
    char step[32];
    SY_TRY(collect(page, &r));
    if (r.n > 0) {
        sy_text_puts(out, "<section>\n<h2>Which text goes to which experts</h2>\n"
                          "<div class=\"card wide\">\n<div class=\"head\">"
                          "<h3>Validation sets by label of the experts</h3><span class=\"unit\">");
        sy_text_printf(
            out, "%% of the choices in all layers, step %s; even: %.1f %%</span></div>\n",
            sy__format_step(r.cell[0].series->last_step, step, sizeof step), 100.0 / r.n_labels);
        write_matrix(out, &r, false);
        sy_text_puts(out, "</div>\n<div class=\"grid2\">\n");
        SY_TRY(write_courses(page, &r));
        sy_text_puts(out, "</div>\n<details class=\"more\"><summary>layer by layer</summary>\n"
                          "<div class=\"card wide\">\n");
        write_matrix(out, &r, true);
        sy_text_puts(out, "</div>\n</details>\n</section>\n");
    }
cleanup:
    sy_free(&r.label);
    sy_free(&r.cell);
    return st;
}
