/* Scales, ticks and marks of the figures. */
#include "report/svg.h"

#include <math.h>
#include <stdio.h>

#include "report/progress.h"

enum { MARGIN_LEFT = 52, MARGIN_RIGHT = 12, MARGIN_TOP = 10, MARGIN_BOTTOM = 26, LABEL_BYTES = 32 };

static sy_svg_scale scale_make(double lo, double hi, bool is_log, double from, double to)
{
    if (!(hi > lo)) {
        double pad = is_log ? 0 : fabs(lo) > 0 ? 0.1 * fabs(lo) : 1;
        hi = is_log ? 2 * lo : lo + pad;
        lo = is_log ? lo / 2 : lo - pad;
    }
    return (sy_svg_scale){.lo = lo, .hi = hi, .is_log = is_log, .from = from, .to = to};
}

sy_svg_plot sy_svg_plot_make(double width, double height, double x_lo, double x_hi, double y_lo,
                             double y_hi, bool y_is_log)
{
    return (sy_svg_plot){
        .width = width,
        .height = height,
        .x = scale_make(x_lo, x_hi, false, MARGIN_LEFT, width - MARGIN_RIGHT),
        .y = scale_make(y_lo, y_hi, y_is_log, height - MARGIN_BOTTOM, MARGIN_TOP),
        .x_name = "step",
        .name = "",
    };
}

double sy_svg_place(const sy_svg_scale *scale, double value)
{
    double v = fmin(fmax(value, scale->lo), scale->hi);
    double share = scale->is_log ? log(v / scale->lo) / log(scale->hi / scale->lo)
                                 : (v - scale->lo) / (scale->hi - scale->lo);
    return scale->from + share * (scale->to - scale->from);
}

static int32_t log_ticks(const sy_svg_scale *scale, double tick[SY_SVG_TICKS])
{
    static const double few[] = {1, 2, 5}, many[] = {1};
    double decades = log10(scale->hi / scale->lo);
    const double *digit = decades > 3 ? many : few;
    int32_t n_digits = decades > 3 ? 1 : 3, n = 0;
    int32_t stride = decades > 10 ? (int32_t)(decades / 6) : 1;
    for (int32_t e = (int32_t)floor(log10(scale->lo)); pow(10, e) <= scale->hi; e += stride) {
        for (int32_t i = 0; i < n_digits; i++) {
            double v = digit[i] * pow(10, e);
            if (v >= scale->lo && v <= scale->hi && n < SY_SVG_TICKS) {
                tick[n++] = v;
            }
        }
    }
    return n;
}

int32_t sy_svg_ticks(const sy_svg_scale *scale, int32_t n_want, double tick[SY_SVG_TICKS])
{
    static const double digits[] = {1, 2, 5, 10};
    if (scale->is_log) {
        return log_ticks(scale, tick);
    }
    double raw = (scale->hi - scale->lo) / n_want, power = pow(10, floor(log10(raw)));
    int32_t i = 0, n = 0;
    while (i < 3 && digits[i] * power < raw * (1 - 1e-9)) {
        i++;
    }
    double step = digits[i] * power, first = ceil(scale->lo / step - 1e-9);
    for (double k = first; k * step <= scale->hi + 1e-9 * step && n < SY_SVG_TICKS; k++) {
        tick[n++] = fabs(k) < 0.5 ? 0 : k * step;
    }
    return n;
}

const char *sy_svg_label(double value, double step, char *buf, size_t buf_bytes)
{
    double size = fabs(value);
    if (value == 0) {
        snprintf(buf, buf_bytes, "0");
    } else if (size < 1e-3 || (step < 1e-4 && size < 1)) {
        double digits = size / pow(10, floor(log10(size) + 1e-9));
        bool is_whole = fabs(digits - round(digits)) < 1e-6;
        snprintf(buf, buf_bytes, is_whole ? "%.0e" : "%.1e", value);
    } else if (size >= 1e4 && step >= 1e2) {
        sy_format_count(value, buf, buf_bytes);
    } else {
        double decimals = step < 1 ? ceil(-log10(step) - 1e-9) : 0;
        snprintf(buf, buf_bytes, "%.*f", (int)decimals, value);
    }
    return buf;
}

static void y_ticks(sy_text *text, const sy_svg_plot *plot)
{
    double tick[SY_SVG_TICKS];
    char label[LABEL_BYTES];
    int32_t n = sy_svg_ticks(&plot->y, plot->height > 250 ? 6 : 5, tick);
    for (int32_t i = 0; i < n; i++) {
        double y = sy_svg_place(&plot->y, tick[i]);
        double step = plot->y.is_log ? tick[i] : n > 1 ? tick[1] - tick[0] : tick[0];
        sy_text_printf(text, "<path class=\"grid\" d=\"M%.0f %.1fH%.0f\"/>", plot->x.from, y,
                       plot->x.to);
        sy_text_printf(text, "<text class=\"tick\" text-anchor=\"end\" x=\"%.0f\" y=\"%.1f\">",
                       plot->x.from - 7, y + 3.5);
        sy_text_html(text, sy_svg_label(tick[i], step, label, sizeof label));
        sy_text_puts(text, "</text>\n");
    }
}

static void x_ticks(sy_text *text, const sy_svg_plot *plot)
{
    double tick[SY_SVG_TICKS];
    char label[LABEL_BYTES];
    int32_t n = sy_svg_ticks(&plot->x, plot->width > 700 ? 10 : 6, tick);
    double base = plot->y.from, step = n > 1 ? fmax(tick[1] - tick[0], 1) : 1;
    sy_text_printf(text, "<path class=\"axis\" d=\"M%.0f %.1fH%.0f\"/>", plot->x.from, base,
                   plot->x.to);
    for (int32_t i = 0; i < n; i++) {
        double x = sy_svg_place(&plot->x, tick[i]);
        /* The axis has its name at the right end; a label there would run into it. */
        if (x > plot->x.to - 44 || tick[i] != floor(tick[i])) {
            continue;
        }
        sy_text_printf(text, "<path class=\"axis\" d=\"M%.1f %.1fv4\"/>", x, base);
        sy_text_printf(text, "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%.1f\">",
                       x, base + 17);
        sy_text_html(text, sy_svg_label(tick[i], step, label, sizeof label));
        sy_text_puts(text, "</text>\n");
    }
    sy_text_printf(text, "<text class=\"name\" text-anchor=\"end\" x=\"%.0f\" y=\"%.1f\">",
                   plot->x.to, base + 17);
    sy_text_html(text, plot->x_name);
    sy_text_puts(text, "</text>\n");
}

void sy_svg_open(sy_text *text, const sy_svg_plot *plot)
{
    sy_text_printf(text, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", plot->width,
                   plot->height);
    sy_text_html(text, plot->name);
    sy_text_puts(text, "\">\n");
    y_ticks(text, plot);
    x_ticks(text, plot);
}

void sy_svg_close(sy_text *text)
{
    sy_text_puts(text, "</svg>\n");
}

static void point_at(sy_text *text, const sy_svg_plot *plot, char command, double x, double y)
{
    sy_text_printf(text, "%c%.1f %.1f", command, sy_svg_place(&plot->x, x),
                   sy_svg_place(&plot->y, y));
}

void sy_svg_line(sy_text *text, const sy_svg_plot *plot, const double *x, const double *y,
                 int32_t n, const char *css)
{
    if (n < 2) {
        return;
    }
    sy_text_printf(text, "<path class=\"line %s\" d=\"", css);
    for (int32_t i = 0; i < n; i++) {
        point_at(text, plot, i == 0 ? 'M' : 'L', x[i], y[i]);
    }
    sy_text_puts(text, "\"/>\n");
}

void sy_svg_band(sy_text *text, const sy_svg_plot *plot, const double *x, const double *lo,
                 const double *hi, int32_t n, const char *css)
{
    if (n < 2) {
        return;
    }
    sy_text_printf(text, "<path class=\"band %s\" d=\"", css);
    for (int32_t i = 0; i < n; i++) {
        point_at(text, plot, i == 0 ? 'M' : 'L', x[i], hi[i]);
    }
    for (int32_t i = n - 1; i >= 0; i--) {
        point_at(text, plot, 'L', x[i], lo[i]);
    }
    sy_text_puts(text, "Z\"/>\n");
}

void sy_svg_dots(sy_text *text, const sy_svg_plot *plot, const double *x, const double *y,
                 int32_t n, const char *css)
{
    for (int32_t i = 0; i < n; i++) {
        sy_text_printf(text, "<circle class=\"dot %s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", css,
                       sy_svg_place(&plot->x, x[i]), sy_svg_place(&plot->y, y[i]));
    }
}
