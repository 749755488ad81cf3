/* Small figures in SVG: a plot area with two scales, ticks, lines, bands and dots. Colours are
   classes, so that the page's style decides them (light and dark). */
#ifndef SY_REPORT_SVG_H
#define SY_REPORT_SVG_H

#include "report/text.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_SVG_TICKS = 16 };

/* Values lo .. hi are placed at pixels from .. to (from may exceed to, as on a y axis). */
typedef struct sy_svg_scale {
    double lo, hi;
    bool is_log;
    double from, to;
} sy_svg_scale;

typedef struct sy_svg_plot {
    double width, height; /* of the whole figure */
    sy_svg_scale x, y;    /* their pixels bound the plot area */
    const char *x_name;   /* stands at the end of the x axis */
    const char *name;     /* for readers who do not see the figure */
} sy_svg_plot;

/* A plot of this size with the usual margins; lo < hi is made true for both axes.
   Not collective. */
sy_svg_plot sy_svg_plot_make(double width, double height, double x_lo, double x_hi, double y_lo,
                             double y_hi, bool y_is_log);

/* Where a value stands; values beyond the scale stand at its end.
   Not collective. */
double sy_svg_place(const sy_svg_scale *scale, double value);

/* Round values inside the scale, at most n_want or so (never more than SY_SVG_TICKS): 1, 2 or 5
   times a power of ten. Not collective. Returns how many. */
int32_t sy_svg_ticks(const sy_svg_scale *scale, int32_t n_want, double tick[SY_SVG_TICKS]);

/* A tick's label: "0.05", "12 k", "3e-04"; `step` is the distance of the ticks.
   Not collective. Returns buf. */
const char *sy_svg_label(double value, double step, char *buf, size_t buf_bytes);

/* <svg>, grid lines, ticks and labels. Not collective. */
void sy_svg_open(sy_text *text, const sy_svg_plot *plot);
void sy_svg_close(sy_text *text);

/* A line through n points, an area between lo and hi, a dot at each point; css is the class. Not
 * collective. */
void sy_svg_line(sy_text *text, const sy_svg_plot *plot, const double *x, const double *y,
                 int32_t n, const char *css);
void sy_svg_band(sy_text *text, const sy_svg_plot *plot, const double *x, const double *lo,
                 const double *hi, int32_t n, const char *css);
void sy_svg_dots(sy_text *text, const sy_svg_plot *plot, const double *x, const double *y,
                 int32_t n, const char *css);

#ifdef __cplusplus
}
#endif
#endif
