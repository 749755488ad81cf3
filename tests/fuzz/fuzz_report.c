/* Mutated metrics.jsonl and config.yaml: whatever a crash or an editor leaves in them, the report
   is a page that closes what it opens and shows no "nan". Deterministic: case i is a function of i
   alone. fuzz_report [CASES [FIRST]] */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "report/html.h"
#include "tests/support/well_formed.h"

#define PROVE(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: case %" PRId64 ": not so: %s; message: %s\n", __FILE__,        \
                    __LINE__, fuzz_case, #cond, sy_error_message());                               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

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

typedef struct dice {
    uint64_t fuzz_case, n_drawn;
} dice;

static size_t below(dice *d, size_t n)
{
    return (size_t)(sy_rng_u64(d->fuzz_case, SY_RNG_TEST, d->n_drawn++) % n);
}

static void mutate(dice *d, char *bytes, size_t *n)
{
    for (size_t k = below(d, 5); k > 0 && *n > 0; k--) {
        const char *piece = pieces[below(d, COUNT_OF(pieces))];
        const size_t at = below(d, *n), n_piece = strlen(piece);
        switch (below(d, 4)) {
        case 0:
            bytes[at] = (char)(uint8_t)(1 + below(d, 255));
            break;
        case 1:
            *n = below(d, 4) == 0 ? at : *n;
            break;
        case 2:
            memmove(bytes + at, bytes + at + 1, *n - at - 1);
            (*n)--;
            break;
        default:
            memmove(bytes + at + n_piece, bytes + at, *n - at);
            memcpy(bytes + at, piece, n_piece);
            *n += n_piece;
        }
    }
    bytes[*n] = '\0';
}

static void read_log(int64_t fuzz_case, const char *path, dice *d, sy_metrics_log *out)
{
    char bytes[MAX_BYTES];
    size_t n = 0;
    for (int32_t i = 1; i <= N_LINES; i++) {
        n += (size_t)snprintf(bytes + n, sizeof bytes - n, line, i, i, i, i, i);
    }
    mutate(d, bytes, &n);
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
    int64_t fuzz_case = -1, n_whole = 0;
    const int fd = mkstemp(path);
    PROVE(fd >= 0);
    for (fuzz_case = first; fuzz_case < first + n; fuzz_case++) {
        dice d = {.fuzz_case = (uint64_t)fuzz_case};
        sy_metrics_log log[2] = {0};
        sy_report_run run[2] = {0};
        char yaml[2][sizeof config + 256], *page = NULL;
        const int32_t n_runs = 1 + (int32_t)below(&d, 2);
        for (int32_t r = 0; r < n_runs; r++) {
            size_t n_yaml = sizeof config - 1;
            memcpy(yaml[r], config, n_yaml);
            mutate(&d, yaml[r], &n_yaml);
            read_log(fuzz_case, path, &d, &log[r]);
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
