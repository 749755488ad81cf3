/* Tokens per second and MFU over the number of GPUs, as one figure that stands alone. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "launch/estimate_impl.h"
#include "report/svg.h"

enum { MAX_POINTS = 16, LABEL_BYTES = 32 };
static const double width = 640, height = 260, gap = 54;

static const char style[] =
    "<style>svg{background:#fff;font:12px sans-serif;color-scheme:light dark}"
    ".grid{stroke:#ddd}.axis{stroke:#888}.tick,.name{fill:#555}.title{fill:#222;font-weight:bold}"
    ".line{fill:none;stroke:#2563eb;stroke-width:2}.ideal{stroke:#999;stroke-dasharray:4 4}"
    ".dot{fill:#2563eb}.misfit{fill:#dc2626}"
    "@media(prefers-color-scheme:dark){svg{background:#16181d}.grid{stroke:#333}"
    ".tick,.name{fill:#aaa}.title{fill:#eee}.line{stroke:#7aa2ff}.ideal{stroke:#777}"
    ".dot{fill:#7aa2ff}.misfit{fill:#ff7b7b}}</style>\n";

typedef struct panel {
    const char *title, *key;
    bool is_log;
    double top; /* of the panel in the figure */
    int32_t n;
    double x[MAX_POINTS], y[MAX_POINTS], ideal[MAX_POINTS]; /* x: log2 of the GPUs */
    bool fits[MAX_POINTS];
} panel;

static void take_points(const json_t *rows, panel *p)
{
    size_t i;
    const json_t *row;
    json_array_foreach(rows, i, row)
    {
        if (p->n < MAX_POINTS) {
            double gpus = json_number_value(json_object_get(row, "gpus"));
            p->x[p->n] = log2(gpus);
            p->y[p->n] = json_number_value(json_object_get(row, p->key));
            p->fits[p->n] = json_is_true(json_object_get(row, "fits"));
            p->ideal[p->n] = p->n == 0 ? p->y[0] : p->ideal[0] * exp2(p->x[p->n] - p->x[0]);
            p->n++;
        }
    }
}

static void draw_axes(sy_text *text, const sy_svg_plot *plot, const panel *p)
{
    double tick[SY_SVG_TICKS];
    char label[LABEL_BYTES];
    int32_t n = sy_svg_ticks(&plot->y, 5, tick);
    sy_text_printf(text, "<text class=\"title\" x=\"%.0f\" y=\"-6\">", plot->x.from);
    sy_text_html(text, p->title);
    sy_text_puts(text, "</text>\n");
    for (int32_t i = 0; i < n; i++) {
        double y = sy_svg_place(&plot->y, tick[i]);
        double step = plot->y.is_log ? tick[i] : n > 1 ? tick[1] - tick[0] : tick[0];
        sy_text_printf(text, "<path class=\"grid\" d=\"M%.0f %.1fH%.0f\"/>", plot->x.from, y,
                       plot->x.to);
        sy_text_printf(text,
                       "<text class=\"tick\" text-anchor=\"end\" x=\"%.0f\" y=\"%.1f\">%s"
                       "</text>\n",
                       plot->x.from - 7, y + 4, sy_svg_label(tick[i], step, label, sizeof label));
    }
    sy_text_printf(text, "<path class=\"axis\" d=\"M%.0f %.1fH%.0f\"/>\n", plot->x.from,
                   plot->y.from, plot->x.to);
    for (int32_t i = 0; i < p->n; i++) {
        sy_text_printf(text,
                       "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">%.0f"
                       "</text>\n",
                       sy_svg_place(&plot->x, p->x[i]), plot->y.from + 17, exp2(p->x[i]));
    }
}

static void draw_panel(sy_text *text, const panel *p)
{
    double lo = p->is_log ? p->y[0] : 0, hi = p->y[0];
    for (int32_t i = 0; i < p->n; i++) {
        double top = p->is_log ? p->ideal[i] : p->y[i];
        lo = p->y[i] < lo ? p->y[i] : lo;
        hi = top > hi ? top : hi;
    }
    sy_svg_plot plot = sy_svg_plot_make(width, height, p->x[0], p->x[p->n - 1],
                                        p->is_log ? 0.8 * lo : 0, 1.2 * hi, p->is_log);
    sy_text_printf(text, "<g transform=\"translate(12 %.0f)\">\n", p->top);
    draw_axes(text, &plot, p);
    if (p->is_log) {
        sy_svg_line(text, &plot, p->x, p->ideal, p->n, "ideal");
    }
    sy_svg_line(text, &plot, p->x, p->y, p->n, "rate");
    for (int32_t i = 0; i < p->n; i++) {
        sy_svg_dots(text, &plot, &p->x[i], &p->y[i], 1, p->fits[i] ? "ok" : "misfit");
    }
    sy_text_puts(text, "</g>\n");
}

static void draw(const sy__estimate *e, const json_t *rows, sy_text *text)
{
    panel rate = {.title = "tokens/s (dashed: in proportion)",
                  .key = "tokens_per_s",
                  .is_log = true,
                  .top = gap};
    panel mfu = {.title = "MFU, % (red: does not fit into memory)",
                 .key = "mfu_percent",
                 .top = 2 * gap + height};
    take_points(rows, &rate);
    take_points(rows, &mfu);
    sy_text_printf(text,
                   "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" "
                   "role=\"img\" aria-label=\"tokens per second and MFU over GPUs\">\n%s",
                   width + 24, 2 * (gap + height) + 16, style);
    sy_text_puts(text, "<text class=\"name\" x=\"64\" y=\"22\">");
    sy_text_html(text, e->machine.name);
    sy_text_puts(text, ", over GPUs; the global batch grows with them</text>\n");
    if (rate.n > 1) {
        draw_panel(text, &rate);
        draw_panel(text, &mfu);
    }
    sy_text_puts(text, "</svg>\n");
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static sy_status write_text(const sy_text *text, const char *path)
{
    sy_status st = SY_OK;
    FILE *f = fopen(path, "w");
    SY_REQUIRE(f != NULL, SY_ERR_USAGE, "--plot: '%s' cannot be written: %s", path,
               strerror(errno));
    size_t n = fwrite(text->data, 1, (size_t)text->n, f);
    SY_REQUIRE(n == (size_t)text->n && fflush(f) == 0, SY_ERR_IO,
               "--plot: '%s' cannot be written: %s", path, strerror(errno));
cleanup:
    if (f != NULL) {
        fclose(f);
    }
    return st;
}

sy_status sy__estimate_plot(const sy__estimate *e, const json_t *rows, const char *path)
{
    sy_status st = SY_OK;
    sy_text text = {0};
    const bool html = ends_with(path, ".html");
    SY_REQUIRE(html || ends_with(path, ".svg"), SY_ERR_USAGE,
               "--plot: '%s' ends neither with .svg nor with .html", path);
    if (html) {
        sy_text_puts(&text, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                            "<meta name=\"viewport\" content=\"width=device-width\">"
                            "<title>Estimate</title></head><body>\n");
    }
    draw(e, rows, &text);
    sy_text_puts(&text, html ? "</body></html>\n" : "");
    SY_TRY(text.st);
    SY_TRY(write_text(&text, path));
cleanup:
    sy_text_free(&text);
    return st;
}
