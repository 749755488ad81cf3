/* explain-loss: what the losses of routing are here, and which coefficient pushes as hard in the
   codes that people come from. Nothing is trained and no data is read. */
#include <stdio.h>
#include <string.h>

#include "launch/bench_impl.h"
#include "launch/commands_impl.h"
#include "launch/settings.h"
#include "moe/convention.h"
#include "moe/router.h"

static const char balance_key[] = "moe.aux_loss_coeff";
static const char *const scope_names[] = {"micro_batch", "sequence", "global_batch"};
static const char *const count_names[] = {"all", "first"};

typedef struct explanation {
    const sy_cli *cli;
    const sy_run_settings *settings;
    const sy_moe_config *moe;
    int32_t L; /* MoE layers */
    json_t *all;
} explanation;

/* ---- ours ---- */

/* The coefficient that a key of a router's own section holds. */
static double own_coefficient(const sy_moe_config *moe, const char *key)
{
#define SECTION(name) &sy_router_section_##name,
    static const sy_config_section *const sections[] = {SY_ROUTERS(SY_ROUTER_NO_SECTION, SECTION)
                                                            NULL};
#undef SECTION
    for (int32_t i = 0; sections[i] != NULL; i++) {
        const size_t n = strlen(sections[i]->name);
        if (strncmp(key, sections[i]->name, n) != 0 || key[n] != '.') {
            continue;
        }
        for (const sy_config_key *k = sections[i]->keys; k->name != NULL; k++) {
            if (strcmp(k->name, key + n + 1) == 0) {
                return *(const double *)(const void *)((const char *)moe->own + k->offset);
            }
        }
    }
    return 0;
}

static void add_loss(json_t *rows, const char *key, double value, const char *formula)
{
    json_array_append_new(
        rows, json_pack("{s:s, s:f, s:s}", "key", key, "coefficient", value, "times", formula));
}

static json_t *losses_of(const explanation *x)
{
    const sy_router_ops *router = sy_router_find(x->moe->router);
    const char *balance = x->moe->aux_loss_counts == SY_AUX_COUNT_FIRST
                              ? "sum over layers of E sum_e f_e P_e, f of first choices"
                              : "sum over layers of E sum_e f_e P_e";
    json_t *rows = json_array();
    for (const sy_router_loss *l = router->losses; l != NULL && l->key != NULL; l++) {
        balance = strcmp(l->key, balance_key) == 0 ? l->formula : balance;
    }
    if (!(router->traits & SY_ROUTER_NO_AUX)) {
        add_loss(rows, balance_key, x->moe->aux_loss_coeff, balance);
    }
    if (!(router->traits & SY_ROUTER_NO_Z)) {
        add_loss(rows, "moe.z_loss_coeff", x->moe->z_loss_coeff,
                 "sum over layers of mean lse^2, lse = logsumexp_e z_te");
    }
    for (const sy_router_loss *l = router->losses; l != NULL && l->key != NULL; l++) {
        if (strcmp(l->key, balance_key) != 0) {
            add_loss(rows, l->key, own_coefficient(x->moe, l->key), l->formula);
        }
    }
    return rows;
}

/* ---- theirs ---- */

static bool balances(const explanation *x)
{
    return !(sy_router_find(x->moe->router)->traits & SY_ROUTER_NO_AUX);
}

/* The coefficients there that push as hard as ours; null: none does. */
static json_t *row_of(const explanation *x, const sy_convention *c)
{
    const double by = sy_convention_balance_factor(c, x->L, x->moe->top_k);
    const double balance = x->moe->aux_loss_coeff / by;
    const double z_by = sy_convention_z_factor(c, x->L, x->moe->top_k, balance);
    json_t *row = json_pack("{s:s, s:s, s:f, s:f}", "code", c->name, "title", c->title, "factor",
                            by, "balance", balance);
    if (z_by > 0) {
        json_object_set_new(row, "z", json_real(x->moe->z_loss_coeff / z_by));
        json_object_set_new(row, "z_factor", json_real(z_by));
    }
    json_object_set_new(row, "times", json_string(c->balance));
    if (c->z != NULL) {
        json_object_set_new(row, "z_times", json_string(c->z));
    }
    json_object_set_new(row, "counts",
                        json_string(count_names[sy_convention_counts(c, x->moe->top_k)]));
    json_object_set_new(row, "scope", json_string(scope_names[c->scope]));
    json_object_set_new(row, "exact", json_boolean(!c->pooled));
    return row;
}

static json_t *conversions_of(const explanation *x)
{
    int32_t n = 0;
    const sy_convention *c = sy_conventions(&n);
    json_t *rows = json_array();
    for (int32_t i = 0; i < n && balances(x); i++) {
        json_array_append_new(rows, row_of(x, &c[i]));
    }
    return rows;
}

/* ---- from there to here ---- */

static sy_status unknown_code(const char *name)
{
    const char *names[32];
    int32_t n = 0;
    const sy_convention *c = sy_conventions(&n);
    for (int32_t i = 0; i < n; i++) {
        names[i] = c[i].name;
    }
    const char *near = sy_nearest_name(name, names, n);
    return sy_error(SY_ERR_USAGE, "--from: no code '%s' is known (did you mean '%s'?)", name,
                    near != NULL ? near : names[0]);
}

/* What the router of this configuration would refuse. */
static sy_status check_from(const explanation *x, const sy_convention *c, bool balance, bool z)
{
    sy_status st = SY_OK;
    const uint32_t traits = sy_router_find(x->moe->router)->traits;
    const bool first = sy_convention_counts(c, x->moe->top_k) == SY_AUX_COUNT_FIRST;
    SY_REQUIRE(!balance || !(traits & SY_ROUTER_NO_AUX), SY_ERR_USAGE,
               "--coeff: moe.router %s has no such balance loss; leave it out, or use moe.router "
               "topk",
               x->moe->router);
    SY_REQUIRE(!z || !(traits & SY_ROUTER_NO_Z), SY_ERR_USAGE,
               "--z-coeff: moe.router %s has no z-loss; leave it out, or use moe.router topk",
               x->moe->router);
    SY_REQUIRE(!balance || !first || !(traits & SY_ROUTER_OWN_COUNT) ||
                   traits & SY_ROUTER_FIRST_COUNT,
               SY_ERR_USAGE,
               "--from %s: it counts first choices, and moe.router %s says itself what its balance "
               "loss counts; use moe.router topk, or --from megatron, which counts all",
               c->name, x->moe->router);
cleanup:
    return st;
}

static sy_status add_from(const explanation *x)
{
    sy_status st = SY_OK;
    const char *name = sy_cli_text(x->cli, "from");
    const bool has_balance = sy_cli_given(x->cli, "coeff"), has_z = sy_cli_given(x->cli, "z-coeff");
    double balance = 0, z = 0;
    json_t *from = NULL, *set = NULL;
    SY_REQUIRE(name != NULL || (!has_balance && !has_z), SY_ERR_USAGE,
               "--coeff and --z-coeff are coefficients of the code that --from names");
    if (name == NULL) {
        goto cleanup;
    }
    const sy_convention *c = sy_convention_find(name);
    SY_TRY(c != NULL ? SY_OK : unknown_code(name));
    SY_REQUIRE(has_balance || has_z, SY_ERR_USAGE,
               "--from %s: which coefficient? Give --coeff C, of its balance loss, or --z-coeff C",
               name);
    SY_TRY(sy_cli_f64(x->cli, "coeff", 0, 1e6, &balance));
    SY_TRY(sy_cli_f64(x->cli, "z-coeff", 0, 1e6, &z));
    SY_REQUIRE(!has_z || c->z != NULL, SY_ERR_USAGE, "--z-coeff: %s has no z-loss of the router",
               c->title);
    SY_REQUIRE(!has_z || !c->z_times_balance || balance > 0, SY_ERR_USAGE,
               "--z-coeff: %s multiplies it with the balance loss's coefficient too; give --coeff",
               c->title);
    SY_TRY(check_from(x, c, has_balance, has_z && z > 0));
    set = json_object();
    if (has_balance) {
        const double by = sy_convention_balance_factor(c, x->L, x->moe->top_k);
        json_object_set_new(set, balance_key, json_real(balance * by));
        json_object_set_new(set, "moe.aux_loss_counts",
                            json_string(count_names[sy_convention_counts(c, x->moe->top_k)]));
        json_object_set_new(set, "moe.aux_loss_scope", json_string(scope_names[c->scope]));
    }
    json_object_set_new(
        set, "moe.z_loss_coeff",
        json_real(has_z ? z * sy_convention_z_factor(c, x->L, x->moe->top_k, balance) : 0));
    from = json_pack("{s:s, s:s, s:o, s:b}", "code", c->name, "title", c->title, "set", set,
                     "exact", !c->pooled);
    json_object_set_new(x->all, "from", from);
cleanup:
    return st;
}

/* ---- for a person ---- */

static void print_losses(const explanation *x)
{
    size_t i;
    const json_t *l;
    printf("%s: %d MoE layer%s (L), %d experts (E), %d choice%s (K), router %s\n\nlosses, added to "
           "the mean cross-entropy of a token\n",
           x->cli->operand[0], x->L, x->L == 1 ? "" : "s", x->moe->experts, x->moe->top_k,
           x->moe->top_k == 1 ? "" : "s", x->moe->router);
    json_array_foreach(json_object_get(x->all, "losses"), i, l)
    {
        printf("  %-30s %-10.6g x %s\n", json_string_value(json_object_get(l, "key")),
               json_real_value(json_object_get(l, "coefficient")),
               json_string_value(json_object_get(l, "times")));
    }
    if (json_array_size(json_object_get(x->all, "losses")) == 0) {
        printf("  none: this router needs none\n");
    }
    if (!balances(x)) {
        return;
    }
    printf("\nf_e: expert e's share of the choices (sum 1; moe.aux_loss_counts: %s), counted in a "
           "%s\n(moe.aux_loss_scope) and constant to the gradient; P_e: mean probability. At "
           "balance each layer's\nsum is 1, whatever E and K.\n",
           count_names[x->moe->aux_loss_counts],
           x->moe->aux_loss_scope == SY_AUX_SEQUENCE      ? "sequence"
           : x->moe->aux_loss_scope == SY_AUX_MICRO_BATCH ? "micro-batch"
                                                          : "global batch");
}

static void print_scale(const explanation *x)
{
    const sy_train_config *train = x->settings->train;
    const int64_t tokens = (int64_t)train->global_batch * x->settings->model->seq_len;
    printf("\nwhat scales it\n"
           "  layers         x %d: layers are summed; a code that takes their mean is L times "
           "weaker\n",
           x->L);
    if (balances(x)) {
        printf("  choices        x 1: f sums to 1; where f sums to K a coefficient is K = %d times "
               "stronger\n",
               x->moe->top_k);
    }
    printf("  tokens         x 1: sums over tokens are divided by the %ld tokens of a %s\n"
           "  micro-batches, ranks   x 1: the same; nothing is averaged twice\n",
           (long)tokens,
           train->batch_ramp_from > 0 ? "full step, by fewer in the batch's ramp" : "step");
}

static void print_number(const json_t *value)
{
    if (value == NULL) {
        printf("%12s", "-");
    } else {
        printf("%12.6g", json_real_value(value));
    }
}

static void print_conversions(const explanation *x)
{
    size_t i;
    const json_t *row;
    if (!balances(x)) {
        printf("\nmoe.router %s has no balance loss that another code's could be compared with\n",
               x->moe->router);
        return;
    }
    printf("\nthe same push elsewhere: the coefficients to write there\n  %-12s%12s%12s  %-7s what "
           "its balance coefficient multiplies\n",
           "code", "balance", "z", "counts");
    json_array_foreach(json_object_get(x->all, "conversions"), i, row)
    {
        printf("  %-12s", json_string_value(json_object_get(row, "code")));
        print_number(json_object_get(row, "balance"));
        print_number(json_object_get(row, "z"));
        printf("  %-7s %s%s\n", json_string_value(json_object_get(row, "counts")),
               json_string_value(json_object_get(row, "times")),
               json_is_true(json_object_get(row, "exact")) ? "" : " (*)");
    }
    printf("\n(*) equal only where the layers' loads are alike: opposite imbalances of two layers "
           "cancel there.\n");
}

static void print_from(const explanation *x)
{
    const json_t *from = json_object_get(x->all, "from"), *value;
    const char *key;
    if (from == NULL) {
        return;
    }
    printf("\nfrom %s; write here\n", json_string_value(json_object_get(from, "title")));
    json_object_foreach((json_t *)json_object_get(from, "set"), key, value)
    {
        if (json_is_string(value)) {
            printf("  %s: %s\n", key, json_string_value(value));
        } else {
            printf("  %s: %.6g\n", key, json_real_value(value));
        }
    }
}

/* ---- the command ---- */

static sy_status explain(explanation *x)
{
    sy_status st = SY_OK;
    SY_REQUIRE(x->moe->experts > 0, SY_ERR_USAGE,
               "%s: moe.experts is 0; a dense model has no losses of routing", x->cli->operand[0]);
    for (int32_t i = 0; i < sy_model_blocks(x->settings->model); i++) {
        x->L += sy_moe_config_layer(x->moe, i);
    }
    x->all = json_pack("{s:i, s:i, s:i, s:s, s:s, s:s}", "layers", x->L, "experts", x->moe->experts,
                       "top_k", x->moe->top_k, "router", x->moe->router, "counts",
                       count_names[x->moe->aux_loss_counts], "scope",
                       scope_names[x->moe->aux_loss_scope]);
    json_object_set_new(x->all, "losses", losses_of(x));
    json_object_set_new(x->all, "conversions", conversions_of(x));
    SY_TRY(add_from(x));
cleanup:
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    explanation x = {.cli = cli, .settings = &settings};
    int32_t n_set = 0;
    const char *const *set = sy_cli_list(cli, "set", &n_set);
    (void)exit_code;
    SY_TRY(sy_settings_load(cli->operand[0], set, n_set, env->world, &settings));
    x.moe = settings.moe;
    SY_TRY(explain(&x));
    if (sy_cli_given(cli, "json")) {
        SY_TRY(sy__print_json(x.all));
        goto cleanup;
    }
    print_losses(&x);
    print_scale(&x);
    print_conversions(&x);
    print_from(&x);
cleanup:
    json_decref(x.all);
    sy_run_settings_free(&settings);
    return st;
}

static const sy_option options[] = {
    {"from", SY_OPTION_VALUE, "CODE",
     "Whose coefficients --coeff and --z-coeff are: megatron, deepspeed, tutel, hf, megablocks, "
     "olmoe, olmo_core, flaxformer, mesh, lingvo or deepseek; says what to write here."},
    {"coeff", SY_OPTION_VALUE, "C", "Its coefficient of the balance loss."},
    {"z-coeff", SY_OPTION_VALUE, "C", "Its coefficient of the router's z-loss."},
    {"set", SY_OPTION_LIST, "KEY=VALUE", "Override a key of the configuration."},
    {"json", SY_OPTION_FLAG, NULL, "Print one JSON object."},
    {0},
};

const sy_command sy_cmd_explain_loss = {
    .name = "explain-loss",
    .operands = "CONFIG.yaml",
    .help = "Say what a configuration's losses of routing are, and which coefficients push as hard "
            "in other codes.",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .alone = true,
    .run = run,
};
