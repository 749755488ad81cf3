#include "train/train_config.h"

#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "moe/capacity.h"
#include "moe/router.h"
#include "moe/widths.h"
#include "optim/schedule.h"
#include "train/batch_ramp.h"
#include "train/spikes.h"

#define KEY(field, kind, def, lo, hi, choices, text)                                               \
    {                                                                                              \
#field, kind, offsetof(sy_train_config, field), def, lo, hi, choices, text                 \
    }

static const char *const recompute_choices[] = {"none", "moe", "block", NULL};
static const char *const nonfinite_choices[] = {"skip", "stop", "rollback", NULL};
static const char *const spike_choices[] = {"off", "warn", "skip", "rollback", NULL};

static const sy_config_key keys[] = {
    KEY(steps, SY_CFG_I64, "1000", 0, 1e15, NULL, "Updates in the whole run."),
    KEY(global_batch, SY_CFG_I32, "8", 1, 1 << 24, NULL, "Sequences per update, over all ranks."),
    KEY(micro_batch, SY_CFG_I32, "1", 1, 1 << 20, NULL,
        "Sequences per forward pass of a rank (B)."),
    KEY(batch_ramp_from, SY_CFG_I32, "0", 0, 1 << 24, NULL,
        "Begin with updates of so many sequences, and grow to global_batch. 0: no ramp."),
    KEY(batch_ramp_by, SY_CFG_I32, "0", 0, 1 << 24, NULL,
        "Sequences of an increment of the ramp; divides global_batch - batch_ramp_from."),
    KEY(batch_ramp_tokens, SY_CFG_I64, "0", 0, 1e18, NULL,
        "Tokens (sequences times model.seq_len) over which the batch grows, as many at each size. "
        "Steps of the learning rate's schedule are counted alike, whatever their batch."),
    KEY(recompute, SY_CFG_ENUM, "none", 0, 0, recompute_choices,
        "What backward computes again instead of keeping: nothing, what experts received, or whole "
        "blocks."),
    KEY(log_every, SY_CFG_I64, "1", 1, 1e15, NULL, "Steps between lines of metrics."),
    KEY(eval_every, SY_CFG_I64, "0", 0, 1e15, NULL,
        "Steps between evaluations of data.valid. 0: at the end only."),
    KEY(eval_batches, SY_CFG_I64, "0", 0, 1e15, NULL,
        "Evaluate this many global batches of each set. 0: the whole set."),
    KEY(checkpoint_every, SY_CFG_I64, "0", 0, 1e15, NULL,
        "Steps between checkpoints. 0: at the end only."),
    KEY(checkpoint_minutes, SY_CFG_F64, "0.0", 0, 1e6, NULL,
        "Minutes between checkpoints, beside checkpoint_every. 0: steps alone decide."),
    KEY(checkpoint_keep, SY_CFG_I32, "2", 0, 1 << 20, NULL,
        "Checkpoints to keep, the newest ones. 0: all."),
    KEY(checkpoint_keep_every, SY_CFG_I64, "0", 0, 1e15, NULL,
        "Milestones: checkpoints of steps that this divides are never removed. 0: none."),
    KEY(checkpoint_async, SY_CFG_BOOL, "false", 0, 0, NULL,
        "Write checkpoints beside the next steps: training waits for a copy in memory only."),
    KEY(checkpoint_staging_gb, SY_CFG_OPT_F64, "null", 0, 1e6, NULL,
        "checkpoint_async: most memory for the copy on a rank, in GB; what does not fit is copied "
        "as the file grows. null: as much as the rank writes."),
    KEY(stop_after_minutes, SY_CFG_F64, "0.0", 0, 1e7, NULL,
        "Save and exit with 75 after so many minutes, before a time limit of the machine's. 0: "
        "never."),
    KEY(nonfinite, SY_CFG_ENUM, "skip", 0, 0, nonfinite_choices,
        "When the gradient norm is not finite: skip the update on all ranks, stop, or go back to "
        "the "
        "last checkpoint and leave the data since then out."),
    KEY(spike, SY_CFG_ENUM, "warn", 0, 0, spike_choices,
        "When loss or gradient norm is more than spike_sigma standard deviations above the mean of "
        "the last spike_window updates: nothing, say so, skip the update, or go back as "
        "train.nonfinite does."),
    KEY(spike_sigma, SY_CFG_F64, "6.0", 0.1, 1e6, NULL, "Standard deviations that make a spike."),
    KEY(spike_window, SY_CFG_I32, "128", 2, SY_SPIKE_MEMORY, NULL,
        "Updates that a spike is compared with; half of them must be there."),
    KEY(skip_limit, SY_CFG_I32, "10", 0, 1 << 20, NULL,
        "Stop after so many steps skipped one after another, or roll-backs without a new "
        "checkpoint between them. 0: never."),
    KEY(skip_batches, SY_CFG_I64, "0", 0, 1e12, NULL,
        "After going back: global batches to leave out beyond the one that failed."),
    KEY(digest_every, SY_CFG_I64, "100", 0, 1e15, NULL,
        "Steps between comparisons of what several ranks hold alike, which are made before "
        "checkpoints too. 0: never."),
    KEY(probe_every, SY_CFG_I64, "100", 0, 1e15, NULL,
        "Steps between two looks at how a few sequences, always the same, are routed "
        "(routing_overlap). 0: never."),
    KEY(freeze, SY_CFG_STR_LIST, "null", 0, 0, NULL,
        "Shell patterns on dataset paths below /model: parameters that do not train."),
    KEY(mtp_phases, SY_CFG_STR_LIST, "null", 0, 0, NULL,
        "Factors of model.mtp_loss_coeff over the run, as optim.phases has them for the learning "
        "rate (DeepSeek-V3: [\"0.6757 constant 1\", \"1 constant 0.3333\"]). null: 1."),
    {0},
};

const sy_config_section sy_train_section = {
    .name = "train",
    .help = "The loop: steps, batches, evaluation, checkpoints.",
    .keys = keys,
    .struct_bytes = sizeof(sy_train_config),
};

const sy_config_section *const *sy_train_sections(int32_t *n)
{
#define SECTION(name) &sy_router_section_##name,
    static const sy_config_section *const sections[] = {
        &sy_run_section,       &sy_device_section,
        &sy_model_section,     &sy_moe_section,
        &sy_parallel_section,  &sy_optim_section,
        &sy_train_section,     &sy_data_section,
        &sy_adafactor_section, SY_ROUTERS(SY_ROUTER_NO_SECTION, SECTION)};
#undef SECTION
    *n = sizeof sections / sizeof sections[0];
    return sections;
}

static void bind_sections(sy_run_settings *s)
{
    s->run = sy_config_get(s->config, "run");
    s->device = sy_config_get(s->config, "device");
    s->model = sy_config_get(s->config, "model");
    s->moe = sy_config_get(s->config, "moe");
    s->parallel = sy_config_get(s->config, "parallel");
    s->optim = sy_config_get(s->config, "optim");
    s->train = sy_config_get(s->config, "train");
    s->data = sy_config_get(s->config, "data");
}

/* Rows of a micro-batch are counted in 32 bits. */
static sy_status check_size(const sy_run_settings *s)
{
    int32_t K = s->moe->experts > 0 ? sy_router_slots(s->moe) : 1;
    int64_t T = (int64_t)s->train->micro_batch * s->model->seq_len;
    if (T > INT32_MAX / K) {
        return sy_config_error(s->config, "train.micro_batch",
                               "train.micro_batch %d of model.seq_len %d tokens, each for %d "
                               "expert%s, is more than 2^31 rows",
                               s->train->micro_batch, s->model->seq_len, K, K == 1 ? "" : "s");
    }
    return sy_capacity_check_tokens(s->config, T);
}

static sy_status resolve(sy_run_settings *s)
{
    sy_status st = SY_OK;
    SY_TRY(sy_model_config_resolve(s->config));
    SY_TRY(sy_moe_config_resolve(s->config, s->model->layers, s->model->ffn_hidden));
    SY_TRY(sy_optim_config_resolve(s->config));
    SY_TRY(sy_phases_check(&s->train->mtp_phases, "train.mtp_phases", s->config));
    if (s->train->mtp_phases.n > 0 && s->model->mtp_layers == 0) {
        SY_TRY(sy_config_error(s->config, "train.mtp_phases",
                               "train.mtp_phases without model.mtp_layers says nothing; set that "
                               "too, or leave it out"));
    }
    if (s->optim->name == SY_OPTIM_ADAFACTOR && sy_moe_has_widths(s->moe)) {
        SY_TRY(sy_config_error(s->config, "optim.name",
                               "optim.name adafactor with moe.expert_widths: the filling of narrow "
                               "experts would count in its means; use adamw"));
    }
    SY_TRY(check_size(s));
    SY_TRY(sy_batch_ramp_check(s));
    if (strcmp(s->data->tokenizer, "bytes") == 0 && s->model->vocab_size < 256) {
        SY_TRY(sy_config_error(
            s->config, "model.vocab_size",
            "model.vocab_size %d is too small for the bytes tokenizer, which has 256 ids",
            s->model->vocab_size));
    }
cleanup:
    return st;
}

sy_status sy_run_settings_parse(const char *text, size_t text_bytes, const char *file_name,
                                const char *const *overrides, int32_t n_overrides,
                                sy_run_settings *out)
{
    sy_status st = SY_OK;
    sy_run_settings s = {0};
    int32_t n_sections = 0;
    const sy_config_section *const *sections = sy_train_sections(&n_sections);
    SY_TRY(sy_config_parse(sections, n_sections, text, text_bytes, file_name, overrides,
                           n_overrides, &s.config));
    bind_sections(&s);
    SY_TRY(resolve(&s));
    *out = s;
    s.config = NULL;
cleanup:
    sy_config_destroy(&s.config);
    return st;
}

void sy_run_settings_free(sy_run_settings *settings)
{
    sy_config_destroy(&settings->config);
    *settings = (sy_run_settings){0};
}
