#include "parallel/parallel_config.h"

#define KEY(field, kind, def, lo, hi, text)                                                        \
    {                                                                                              \
#field, kind, offsetof(sy_parallel_config, field), def, lo, hi, NULL, text                 \
    }

static const sy_config_key keys[] = {
    KEY(ep, SY_CFG_I32, "1", 1, 1 << 20,
        "Ranks over which the experts of a layer are spread; divides the number of ranks and "
        "moe.experts."),
    KEY(zero, SY_CFG_I32, "1", 0, 2,
        "0: every replica keeps all optimizer state; 1: each keeps its share (ZeRO-1); 2: its "
        "share of the layers' gradients too, sent every micro-batch (ZeRO-2)."),
    KEY(overlap_chunks, SY_CFG_I32, "1", 1, 16,
        "Chunks that a micro-batch's tokens are cut into where ep > 1: the rows of one travel "
        "while "
        "those of another are computed. On GPUs; needs buffers for three of them."),
    KEY(register_buffers, SY_CFG_BOOL, "false", 0, 0,
        "Register gradients, parameters and the exchange's memory with NCCL (user buffers, NCCL "
        "2.19 or later), so that it may move them without copies of its own. On GPUs; not "
        "measured yet."),
    KEY(timeout_s, SY_CFG_F64, "600.0", 0, 1e6,
        "A rank that does not answer for so long, or lets others wait without a sign of progress, "
        "ends the job with status 76; 0: nobody watches, as for a debugger."),
    {0},
};

static sy_status check(const void *section, const sy_config *config)
{
    const sy_parallel_config *c = section;
    if (c->timeout_s > 0 && c->timeout_s < 1) {
        return sy_config_error(config, "parallel.timeout_s",
                               "parallel.timeout_s %g is too short to tell a rank that hangs from "
                               "one that is busy: write 1 or more, or 0 for no watchdog",
                               c->timeout_s);
    }
    return SY_OK;
}

const sy_config_section sy_parallel_section = {
    .name = "parallel",
    .help = "How the work is spread over ranks.",
    .keys = keys,
    .struct_bytes = sizeof(sy_parallel_config),
    .check = check,
};

sy_status sy_parallel_config_check(const sy_config *config, int32_t n_ranks, int32_t n_experts)
{
    const sy_parallel_config *c = sy_config_get(config, "parallel");
    if (n_ranks % c->ep != 0) {
        return sy_config_error(config, "parallel.ep",
                               "parallel.ep %d does not divide the %d ranks of this job", c->ep,
                               n_ranks);
    }
    if (n_experts == 0 && c->ep > 1) {
        return sy_config_error(config, "parallel.ep",
                               "parallel.ep %d in a dense model: moe.experts is 0", c->ep);
    }
    if (n_experts % c->ep != 0) {
        return sy_config_error(config, "parallel.ep",
                               "moe.experts %d is not divisible by parallel.ep %d", n_experts,
                               c->ep);
    }
    return SY_OK;
}
