#include "launch/router_data.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/log.h"
#include "parallel/agree.h"
#include "train/hidden.h"
#include "upcycle/router_rows.h"

static const double degenerate = 5; /* condition number, as mergekit has it */

typedef struct router_data {
    sy_grow *grow;
    const char *const *path; /* [n] */
    int32_t n;
    int64_t tokens;
    double scale;
    double *one; /* [SY_PULL_BYTES] of one source */
} router_data;

/* ---- the options ---- */

/* Copies that get a row of their own; granular experts of one copy share theirs. */
static int32_t n_copies(const sy_grow *g)
{
    const int32_t G = g->spec.granularity;
    return (g->settings.moe->experts + G - 1) / G;
}

static sy_status read_options(router_data *d)
{
    sy_status st = SY_OK;
    sy_grow *g = d->grow;
    const char *command = g->cli->command->name;
    SY_TRY(sy_cli_i64(g->cli, "router-tokens", 1, (int64_t)1 << 32, &d->tokens));
    SY_TRY(sy_cli_f64(g->cli, "router-scale", 0, 1000, &d->scale));
    SY_REQUIRE(d->n >= 2, SY_ERR_USAGE,
               "%s: one text tells no experts apart; give --router-data PREFIX once for each",
               command);
    SY_REQUIRE(n_copies(g) % d->n == 0, SY_ERR_USAGE,
               "%s: %d experts%s cannot be shared out to %d texts of --router-data", command,
               n_copies(g), g->spec.granularity > 1 ? " (whole copies)" : "", d->n);
    if (!sy_cli_given(g->cli, "router-init-std") && n_copies(g) == d->n) {
        g->spec.router_std = 0; /* no two copies have the same row */
    }
cleanup:
    return st;
}

static sy_status check_alone(const sy_grow *g)
{
    static const char *const options[] = {"router-scale", "router-tokens"};
    sy_status st = SY_OK;
    for (int32_t i = 0; i < 2; i++) {
        SY_REQUIRE(!sy_cli_given(g->cli, options[i]), SY_ERR_USAGE,
                   "%s: --%s goes with --router-data", g->cli->command->name, options[i]);
    }
cleanup:
    return st;
}

/* ---- what is run ---- */

static sy_status read_one(const sy_source *source, const char *name, int32_t *tensor)
{
    *tensor = sy_source_find(source, name);
    return *tensor >= 0 ? SY_OK
                        : sy_error(SY_ERR_INTERNAL, "'%s' has no tensor '%s'", source->path, name);
}

/* As the recipe mixes what is no expert; MLPs likewise. */
static sy_status read_base(void *self, const char *name, int64_t first, int64_t n, sy_dtype dtype,
                           void *h_to)
{
    sy_status st = SY_OK;
    const router_data *d = self;
    const sy_grow *g = d->grow;
    const int32_t base = g->n_sources == 1 ? 0 : g->spec.base;
    const int64_t bytes = (int64_t)sy_dtype_bytes(dtype), room = SY_PULL_BYTES / 16;
    double *sum = d->one, *one = d->one + room;
    int32_t tensor = -1;
    if (base >= 0) {
        SY_TRY(read_one(g->source[base], name, &tensor));
        return sy_source_read(g->source[base], tensor, first, n, dtype, h_to);
    }
    for (int64_t done = 0, m = 0; done < n; done += m) {
        m = n - done < room ? n - done : room;
        memset(sum, 0, (size_t)m * sizeof *sum);
        for (int32_t s = 0; s < g->n_sources; s++) {
            SY_TRY(read_one(g->source[s], name, &tensor));
            SY_TRY(sy_source_read(g->source[s], tensor, first + done, m, SY_F64, one));
            for (int64_t i = 0; i < m; i++) {
                sum[i] += one[i] / g->n_sources;
            }
        }
        sy_convert(dtype, (char *)h_to + done * bytes, SY_F64, sum, m);
    }
cleanup:
    return st;
}

static sy_status measure(router_data *d, sy_hidden *out)
{
    const sy_grow *g = d->grow;
    const bool ref = strcmp(g->settings.device->backend, "ref") == 0;
    const sy_hidden_spec spec = {
        .model = {.settings = &g->settings, .read = read_base, .self = d},
        .vocab_size = g->source_settings[g->spec.base > 0 ? g->spec.base : 0].model->vocab_size,
        .world = g->env->world,
        .threads = g->env->threads,
        .precision = ref ? "fp64" : "fp32",
        .path = d->path,
        .n_sets = d->n,
        .tokens = d->tokens};
    return sy_hidden_measure(&spec, out);
}

/* ---- the rows ---- */

static void warn_of(const sy_grow *g, const double *condition, int64_t L)
{
    int64_t n = 0, n_moe = 0, worst = -1;
    for (int64_t l = 0; l < L; l++) {
        const bool routes = sy_moe_config_layer(g->settings.moe, (int32_t)l);
        n_moe += routes;
        n += routes && condition[l] > degenerate;
        worst = routes && (worst < 0 || condition[l] > condition[worst]) ? l : worst;
    }
    if (n > 0 && g->env->world->rank == 0) {
        sy_warn("the texts of --router-data are hard to tell apart in %ld of %ld MoE layers: "
                "the rows of their routers have condition numbers up to %.3g (layer %ld), and "
                "above %g they nearly coincide",
                (long)n, (long)n_moe, condition[worst], (long)worst, degenerate);
    }
}

static sy_status make_rows(router_data *d, const sy_hidden *hidden)
{
    sy_status st = SY_OK;
    sy_grow *g = d->grow;
    const int64_t n = hidden->n_sets, H = hidden->H, L = hidden->n_layers;
    double *condition = NULL;
    SY_TRY(sy_alloc(L, sizeof *condition, (void **)&condition));
    SY_TRY(sy_alloc(L * n * H, sizeof *g->router_rows, (void **)&g->router_rows));
    for (int64_t l = 0; l < L; l++) {
        SY_TRY(sy_router_rows(hidden->mean + l * n * H, hidden->square + l * n, n, H, d->scale,
                              g->router_rows + l * n * H, &condition[l]));
    }
    g->spec.router_rows = g->router_rows;
    g->spec.router_texts = d->n;
    warn_of(g, condition, L);
cleanup:
    sy_free(&condition);
    return st;
}

static void print_texts(const router_data *d, const sy_hidden *hidden)
{
    printf("routers point at the mean hidden states of\n");
    for (int32_t i = 0; i < d->n; i++) {
        printf("  %s: %ld tokens; %s", d->path[i], (long)hidden->tokens[i],
               d->grow->spec.granularity > 1 ? "copy" : "expert");
        for (int32_t c = i; c < n_copies(d->grow); c += d->n) {
            printf("%s %d", c > i ? "," : "", c);
        }
        printf("\n");
    }
    fflush(stdout);
}

sy_status sy_grow_route(sy_grow *g)
{
    sy_status st = SY_OK;
    sy_comm *world = g->env->world;
    router_data d = {.grow = g, .tokens = 4096, .scale = 1};
    sy_hidden hidden = {0};
    d.path = sy_cli_list(g->cli, "router-data", &d.n);
    if (d.n == 0) {
        return check_alone(g);
    }
    SY_TRY(read_options(&d));
    SY_TRY(sy_agree(world, sy_alloc(SY_PULL_BYTES, 1, (void **)&d.one)));
    SY_TRY(measure(&d, &hidden));
    SY_TRY(sy_agree(world, make_rows(&d, &hidden)));
    if (world->rank == 0) {
        print_texts(&d, &hidden);
    }
cleanup:
    sy_free(&d.one);
    sy_hidden_free(&hidden);
    return st;
}
