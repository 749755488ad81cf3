/* check layout: proof on the user's own configuration that a run does not depend on how it is
   spread over ranks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/alloc.h"
#include "launch/cli.h"
#include "launch/settings.h"
#include "train/check_layout.h"

/* ---- the command line ---- */

static sy_status check_operands(const sy_cli *cli)
{
    sy_status st = SY_OK;
    const char *what = cli->operand[0];
    SY_REQUIRE(strcmp(what, "gradients") != 0, SY_ERR_USAGE,
               "check gradients is not part of this version; check layout is");
    SY_REQUIRE(strcmp(what, "layout") == 0, SY_ERR_USAGE,
               "check: unknown check '%s' (did you mean 'layout'?)", what);
    SY_REQUIRE(cli->n_operands == 2, SY_ERR_USAGE,
               "check layout: a configuration is missing; usage: switchyard check layout "
               "CONFIG.yaml");
cleanup:
    return st;
}

static bool sets_key(const char *const *set, int32_t n, const char *key)
{
    for (int32_t i = 0; i < n; i++) {
        if (strncmp(set[i], key, strlen(key)) == 0 && set[i][strlen(key)] == '=') {
            return true;
        }
    }
    return false;
}

/* The configuration, on ref in double precision unless the user wants to see another backend. */
static sy_status load_settings(const sy_cli *cli, sy_comm *world, sy_run_settings *out)
{
    sy_status st = SY_OK;
    int32_t n_set = 0, n = 0;
    const char *const *set = sy_cli_list(cli, "set", &n_set);
    const char *backend = sy_cli_text(cli, "backend"), **overrides = NULL;
    char *device = NULL;
    SY_TRY(sy_alloc(n_set + 2, sizeof *overrides, (void **)&overrides));
    if (!sets_key(set, n_set, "device.backend") || backend != NULL) {
        SY_TRY(sy_asprintf(&device, "device.backend=%s", backend != NULL ? backend : "ref"));
        overrides[n++] = device;
        if (backend == NULL || strcmp(backend, "ref") == 0) {
            overrides[n++] = "device.precision=auto";
        }
    }
    for (int32_t i = 0; i < n_set; i++) {
        overrides[n++] = set[i];
    }
    SY_TRY(sy_settings_load(cli->operand[1], overrides, n, world, out));
cleanup:
    sy_free(&device);
    sy_free(&overrides);
    return st;
}

/* RANKS:EP or RANKS:EP:ZERO. */
static bool parse_layout(const char *text, size_t length, int32_t default_zero, sy_layout *out)
{
    char word[32];
    int used = 0, n = 0;
    *out = (sy_layout){.zero = default_zero};
    if (length == 0 || length >= sizeof word) {
        return false;
    }
    snprintf(word, sizeof word, "%.*s", (int)length, text);
    n = sscanf(word, "%d:%d%n:%d%n", &out->ranks, &out->ep, &used, &out->zero, &used);
    return n >= 2 && used == (int)length && (out->zero == 0 || out->zero == 1);
}

static sy_status parse_layouts(const char *text, int32_t default_zero, sy_layout **out, int32_t *n)
{
    sy_status st = SY_OK;
    sy_layout *list = NULL;
    *n = 0;
    for (const char *at = text; at != NULL; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        size_t length = strcspn(at, ",");
        SY_TRY(sy_realloc(*n + 1, sizeof *list, (void **)&list));
        SY_REQUIRE(parse_layout(at, length, default_zero, &list[(*n)++]), SY_ERR_USAGE,
                   "--layouts: '%.*s' is not RANKS:EP or RANKS:EP:ZERO, as in 1:1,4:2,4:4:0",
                   (int)length, at);
    }
    *out = list;
    list = NULL;
cleanup:
    sy_free(&list);
    return st;
}

/* ---- the table ---- */

static void print_head(const sy_run_settings *s, const sy_layout_check *check, int64_t steps)
{
    printf("check layout: %ld steps on %s in %s, global batch %d in micro-batches of %d\n",
           (long)steps, s->device->backend, sy_dtype_name(check->compute), s->train->global_batch,
           s->train->micro_batch);
    printf("held fixed by definition: the micro-batch (capacity and the aux loss are taken over "
           "it)%s\n",
           s->moe->aux_loss_scope == SY_AUX_GLOBAL_BATCH
               ? " and, for aux_loss_scope global_batch, the rounds of accumulation"
               : "");
    if (check->n_judged < steps) {
        printf("the first %ld steps are judged: later one flipped choice of an expert grows\n",
               (long)check->n_judged);
    }
    printf("%-26s", "worst relative deviation");
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
        printf(" %-18s", sy_layout_figure_name((sy_layout_figure)f));
    }
    putchar('\n');
}

static void print_row(const sy_layout_check *check, int32_t i)
{
    const sy_layout_row *row = &check->row[i];
    char left[48], cell[48];
    snprintf(left, sizeof left, "%d rank%s, ep %d, zero %d", row->layout.ranks,
             row->layout.ranks == 1 ? "" : "s", row->layout.ep, row->layout.zero);
    printf("%-26s", left);
    if (i == 0) {
        printf(" what the others are compared with\n");
        return;
    }
    if (row->skipped) {
        printf(" skipped: other rounds of accumulation\n");
        return;
    }
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
        snprintf(cell, sizeof cell, "%.1e%s (step %ld)", row->worst[f],
                 row->worst[f] <= check->bound[f] ? "" : " !", (long)row->at_step[f]);
        printf(f + 1 < SY_N_LAYOUT_FIGURES ? " %-18s" : " %s", row->worst[f] == 0 ? "0" : cell);
    }
    putchar('\n');
}

static void print_bounds(const sy_layout_check *check)
{
    printf("%-26s", "bound");
    for (int32_t f = 0; f < SY_N_LAYOUT_FIGURES; f++) {
        char cell[32] = "not judged";
        if (isfinite(check->bound[f])) {
            snprintf(cell, sizeof cell, "%.0e", check->bound[f]);
        }
        printf(" %-18s", cell);
    }
    putchar('\n');
}

/* The same on every rank: what is farthest over its bound. */
static sy_status verdict(const sy_layout_check *check)
{
    sy_status st = SY_OK;
    const sy_layout_row *row = check->row;
    int32_t f = 0;
    double most = 1;
    for (int32_t i = 1; i < check->n; i++) {
        for (int32_t k = 0; k < SY_N_LAYOUT_FIGURES && !check->row[i].skipped; k++) {
            double part = check->row[i].worst[k] / check->bound[k];
            if (!(part <= most)) { /* a NaN too */
                most = part;
                row = &check->row[i];
                f = k;
            }
        }
    }
    SY_REQUIRE(row == check->row, SY_ERR_NUMERIC,
               "check layout: %s on %d ranks with ep %d, zero %d deviates by %.2e at step %ld; "
               "allowed is %.0e",
               sy_layout_figure_name((sy_layout_figure)f), row->layout.ranks, row->layout.ep,
               row->layout.zero, row->worst[f], (long)row->at_step[f], check->bound[f]);
cleanup:
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    sy_layout *layouts = NULL;
    sy_layout_check check = {0};
    sy_layout_check_spec spec = {
        .settings = &settings, .world = env->world, .threads = env->threads, .steps = 5};
    const char *text = sy_cli_text(cli, "layouts");
    (void)exit_code;
    SY_TRY(check_operands(cli));
    SY_TRY(sy_cli_i64(cli, "steps", 1, 1000000, &spec.steps));
    SY_TRY(load_settings(cli, env->world, &settings));
    SY_TRY(text != NULL ? parse_layouts(text, settings.parallel->zero, &layouts, &spec.n_layouts)
                        : sy_layouts_all(&settings, env->world->size, &layouts, &spec.n_layouts));
    spec.layouts = layouts;
    SY_TRY(sy_check_layout(&spec, &check));
    if (env->world->rank == 0) {
        print_head(&settings, &check, spec.steps);
        for (int32_t i = 0; i < check.n; i++) {
            print_row(&check, i);
        }
        print_bounds(&check);
        fflush(stdout);
    }
    SY_TRY(verdict(&check));
cleanup:
    sy_layout_check_free(&check);
    sy_free(&layouts);
    sy_run_settings_free(&settings);
    return st;
}

static const sy_option options[] = {
    {"steps", SY_OPTION_VALUE, "N", "Steps to train with each layout (5)."},
    {"layouts", SY_OPTION_VALUE, "LIST",
     "Layouts as RANKS:EP[:ZERO], the first one is compared with: 1:1,4:2,4:4:0 (default: all that "
     "this job allows)."},
    {"backend", SY_OPTION_VALUE, "NAME", "Where to compute (default: ref, in double precision)."},
    {"set", SY_OPTION_LIST, "KEY=VALUE", "Override a key of the configuration."},
    {0},
};

const sy_command sy_cmd_check = {.name = "check",
                                 .operands = "layout CONFIG.yaml",
                                 .help =
                                     "Show that losses and gradients do not depend on the layout.",
                                 .min_operands = 1,
                                 .max_operands = 2,
                                 .options = options,
                                 .run = run};
