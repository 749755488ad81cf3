/* The progress line. Log lines may come from another thread, so whether a line stands on the
 * terminal is atomic. */
#include "report/progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/log.h"
#include "report/file_impl.h"

#define REDRAW_S 0.1
#define RATE_MEMORY_S 30.0 /* how far back the rate looks */

enum { LINE_BYTES = 512, PART_BYTES = 48 };

struct sy_progress {
    sy_progress_spec spec;
    int fd;
    bool is_terminal;
    atomic_bool is_drawn;
    int64_t done;
    double t_done, t_shown;
    double s_per_unit; /* of work, smoothed; 0: not known yet */
    char line[LINE_BYTES];
};

static void clear_line(void *arg)
{
    static const char clear[] = "\r\x1b[K";
    sy_progress *p = arg;
    if (atomic_exchange(&p->is_drawn, false)) {
        sy__write_all(p->fd, clear, sizeof clear - 1);
    }
}

sy_status sy_progress_create(const sy_progress_spec *spec, sy_progress **out)
{
    sy_status st = SY_OK;
    sy_progress *p = NULL;
    SY_TRY(sy_alloc(1, sizeof *p, (void **)&p));
    p->spec = *spec;
    p->fd = spec->fd > 0 ? spec->fd : STDERR_FILENO;
    p->is_terminal = isatty(p->fd) == 1;
    p->done = spec->start;
    p->t_done = sy_clock_s();
    p->t_shown = -INFINITY;
    sy_log_on_line(clear_line, p);
    *out = p;
cleanup:
    return st;
}

static double work(const sy_progress *p, int64_t done)
{
    return p->spec.work != NULL ? p->spec.work(p->spec.self, done) : (double)done;
}

/* Seconds per unit: an average that forgets what lies far back, whatever the size of a unit. */
static void update_rate(sy_progress *p, int64_t done, double now)
{
    double n = work(p, done) - work(p, p->done), s = now - p->t_done;
    if (n <= 0 || s <= 0) {
        return;
    }
    double weight = p->s_per_unit > 0 ? 1 - exp(-s / RATE_MEMORY_S) : 1;
    p->s_per_unit += weight * (s / n - p->s_per_unit);
    p->done = done;
    p->t_done = now;
}

static void append(char *buf, size_t buf_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void append(char *buf, size_t buf_bytes, const char *format, ...)
{
    size_t n = strlen(buf);
    va_list args;
    va_start(args, format);
    vsnprintf(buf + n, buf_bytes - n, format, args);
    va_end(args);
}

static void compose(sy_progress *p, int64_t done, const char *facts)
{
    char part[PART_BYTES];
    snprintf(p->line, sizeof p->line, "%s %lld", p->spec.what, (long long)done);
    if (p->spec.total > 0) {
        append(p->line, sizeof p->line, "/%lld", (long long)p->spec.total);
    }
    if (facts != NULL && facts[0] != '\0') {
        append(p->line, sizeof p->line, " | %s", facts);
    } else if (facts == NULL && p->s_per_unit > 0) {
        append(p->line, sizeof p->line, " | %s/s",
               sy_format_count(1 / p->s_per_unit, part, sizeof part));
    }
    if (p->spec.total > done && p->s_per_unit > 0) {
        double left = (work(p, p->spec.total) - work(p, done)) * p->s_per_unit;
        append(p->line, sizeof p->line, " | %s left", sy_format_duration(left, part, sizeof part));
    }
}

static size_t terminal_columns(int fd)
{
    struct winsize size;
    return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

/* One write for the whole line: no flicker. A line that wraps could not be redrawn, so it is cut.
 */
static void draw(sy_progress *p)
{
    char out[LINE_BYTES + 16];
    size_t n = strlen(p->line), n_max = terminal_columns(p->fd) - 1;
    snprintf(out, sizeof out, "\r%.*s\x1b[K", (int)(n < n_max ? n : n_max), p->line);
    atomic_store(&p->is_drawn, true);
    sy__write_all(p->fd, out, (int64_t)strlen(out));
}

static void write_plain(sy_progress *p)
{
    size_t n = strlen(p->line);
    n -= n == sizeof p->line - 1;
    p->line[n] = '\n';
    sy__write_all(p->fd, p->line, (int64_t)n + 1);
}

void sy_progress_update(sy_progress *progress, int64_t done, const char *facts)
{
    sy_progress *p = progress;
    double now = sy_clock_s();
    double interval = p->is_terminal ? REDRAW_S : p->spec.plain_s;
    bool is_last = p->spec.total > 0 && done >= p->spec.total;
    update_rate(p, done, now);
    if (now - p->t_shown < interval && !is_last) {
        return;
    }
    p->t_shown = now;
    compose(p, done, facts);
    if (p->is_terminal) {
        draw(p);
    } else {
        write_plain(p);
    }
}

void sy_progress_destroy(sy_progress **progress)
{
    if (*progress != NULL) {
        sy_log_on_line(NULL, NULL);
        if (atomic_exchange(&(*progress)->is_drawn, false)) {
            sy__write_all((*progress)->fd, "\n", 1);
        }
        sy_free(progress);
    }
}

const char *sy_step_facts_format(const sy_step_facts *facts, char *buf, size_t buf_bytes)
{
    char count[PART_BYTES];
    snprintf(buf, buf_bytes, "loss %.4f", facts->loss);
    if (!isnan(facts->grad_norm)) {
        append(buf, buf_bytes, " | norm %.2f", facts->grad_norm);
    }
    if (!isnan(facts->lr)) {
        append(buf, buf_bytes, " | lr %.1e", facts->lr);
    }
    if (facts->sequences > 0) {
        append(buf, buf_bytes, " | batch %d", facts->sequences);
    }
    if (!isnan(facts->drop_fraction)) {
        append(buf, buf_bytes, " | drop %.1f %%", 100 * facts->drop_fraction);
    }
    if (facts->load_max_over_mean > 0) {
        append(buf, buf_bytes, " | load max/mean %.2f", facts->load_max_over_mean);
    }
    if (facts->step_ms > 0) {
        append(buf, buf_bytes, facts->step_ms < 100 ? " | %.1f ms" : " | %.0f ms", facts->step_ms);
    }
    if (facts->tokens_per_s > 0) {
        append(buf, buf_bytes, " | %s tok/s",
               sy_format_count(facts->tokens_per_s, count, sizeof count));
    }
    return buf;
}

const char *sy_format_count(double value, char *buf, size_t buf_bytes)
{
    static const char *const units[] = {"", " k", " M", " G", " T", " P"};
    int unit = 0;
    /* 999.5 and above would be rounded to four digits. */
    while (fabs(value) >= 999.5 && unit < 5) {
        value /= 1000;
        unit++;
    }
    bool is_whole = unit == 0 && value == floor(value);
    int decimals = fabs(value) >= 9.95 || is_whole ? 0 : 1;
    snprintf(buf, buf_bytes, "%.*f%s", decimals, value, units[unit]);
    return buf;
}

const char *sy_format_duration(double seconds, char *buf, size_t buf_bytes)
{
    long long s = seconds > 0 && seconds < 1e12 ? llround(seconds) : 0;
    if (s < 3600) {
        snprintf(buf, buf_bytes, "%lld:%02lld", s / 60, s % 60);
    } else if (s < 86400) {
        snprintf(buf, buf_bytes, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    } else {
        snprintf(buf, buf_bytes, "%lld d %lld h", s / 86400, s / 3600 % 24);
    }
    return buf;
}
