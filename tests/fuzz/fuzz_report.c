/* Mutated metrics.jsonl and config.yaml: whatever a crash or an editor leaves in them, the report
   is a page that closes what it opens and shows no "nan". Deterministic: case i is a function of i
   alone. fuzz_report [CASES [FIRST]] */
#include <unistd.h>

#include "core/alloc.h"
#include "report/html.h"
#include "tests/support/fuzz.h"
#include "tests/support/well_formed.h"

enum { MAX_BYTES = 1 << 13, N_LINES = 6 };

static const char line[] =
    "{\"step\":%d,\"tokens\":%d,\"time_s\":%d.5,\"train/loss\":%d.25,\"train/skipped_steps\":0,"
    "\"moe/layer_1/load\":[4,%d,0,4],\"moe/layer_3/load\":[4,4,4,4],"
    "\"moe/layer_1/drop_position\":[0,0,0.25,0.75],\"moe/layer_1/router_entropy\":1.5,"
    "\"moe/layer_3/router_entropy\":0.5,\"moe/drop_fraction\":0.25,\"perf/step_ms\":40,"
    "\"perf/forward_ms\":10,\"perf/experts_ms\":4,\"mem/params_bytes\":1048576,"
    "\"valid/a/loss\":2.5,\"valid/a/routed/x\":0.5,\"valid/a/layer_1/routed/x\":0.5}\n";
static const char config[] = "run:\n  name: a\n  seed: 1\nmoe:\n  force_balance: false\n"
                             "train:\n  steps: 400\ndata:\n  train: [{path: x, weight: 4}]\n";
static const char *const pieces[] = {"{",
                                     "}",
                                     "[",
                                     "]",
                                     ",",
                                     ":",
                                     "\"",
                                     "\n",
                                     "-1",
                                     "1e300",
                                     "-1e300",
                                     "1e-300",
                                     "null",
                                     "\xff",
                                     "<b>",
                                     "&",
                                     "9999999999999999999",
                                     "0",
                                     "true",
                                     "[]",
                                     "[null]",
                                     "\"step\"",
                                     "\\u0000",
                                     "  ",
                                     "- x: y",
                                     "#",
                                     "steps: -5",
                                     "steps: 0",
                                     "moe/layer_1/load",
                                     "/loss",
                                     "perf/forward_ms"};

static void read_log(const char *path, dice *d, sy_metrics_log *out)
{
    char bytes[MAX_BYTES];
    size_t n = 0;
    for (int32_t i = 1; i <= N_LINES; i++) {
        n += (size_t)snprintf(bytes + n, sizeof bytes - n, line, i, i, i, i, i);
    }
    mutate_text(d, bytes, &n, pieces, COUNT_OF(pieces));
    FILE *file = fopen(path, "w");
    PROVE(file && fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
    PROVE(sy_metrics_log_read(path, out) == SY_OK);
}

/* Among figures and attributes; the configuration may say what it likes. */
static bool shows_nan(char *page)
{
    char *text = strstr(page, "<h2>Configuration");
    if (text != NULL) {
        *text = '\0';
    }
    for (const char *at = strstr(page, "nan"); at != NULL; at = strstr(at + 1, "nan")) {
        if (at > page && strchr(">\"-:( MLHVh", at[-1]) != NULL) {
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    const int64_t n = argc > 1 ? atoll(argv[1]) : 300, first = argc > 2 ? atoll(argv[2]) : 0;
    char path[] = "/tmp/fuzz_report_XXXXXX";
    int64_t n_whole = 0;
    const int fd = mkstemp(path);
    PROVE(fd >= 0);
    for (int64_t i = first; i < first + n; i++) {
        dice d = dice_of(i);
        sy_metrics_log log[2] = {0};
        sy_report_run run[2] = {0};
        char yaml[2][sizeof config + 256], *page = NULL;
        const int32_t n_runs = 1 + (int32_t)below(&d, 2);
        for (int32_t r = 0; r < n_runs; r++) {
            size_t n_yaml = sizeof config - 1;
            memcpy(yaml[r], config, n_yaml);
            mutate_text(&d, yaml[r], &n_yaml, pieces, COUNT_OF(pieces));
            read_log(path, &d, &log[r]);
            run[r] = (sy_report_run){.log = &log[r],
                                     .name = "a",
                                     .config = yaml[r],
                                     .holder = (sy_run_holder)below(&d, 4),
                                     .quiet_s = (double)below(&d, 1000)};
            n_whole += log[r].n_lines == N_LINES;
        }
        PROVE(sy_report_render(run, n_runs, &page) == SY_OK);
        PROVE(html_is_well_formed(page));
        PROVE(!shows_nan(page));
        sy_free(&page);
        sy_metrics_log_free(&log[0]);
        sy_metrics_log_free(&log[1]);
        PROVE(sy_alloc_live() == 0);
    }
    close(fd);
    unlink(path);
    printf("%" PRId64 " of the logs were whole\n", n_whole);
    return n >= 300 && n_whole < n / 20;
}
