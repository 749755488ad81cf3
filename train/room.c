#include "train/room.h"

#include <stdio.h>

#include "optim/optimizer.h"
#include "parallel/grad_sync.h"

/* What the trainer adds to the engine: the dry device books it as the real one will. */
static sy_status add_training(sy_engine *twin, sy_optimizer **opt, sy_grad_sync **grads)
{
    sy_status st = SY_OK;
    SY_TRY(sy_optimizer_create(twin->settings->optim, twin->params, opt));
    SY_TRY(sy_grad_sync_create(twin->params, twin->compute_stream, twin->comm_stream, grads));
cleanup:
    return st;
}

/* The arenas of a dry engine only measure: what they reached is what the real ones will take. */
static int64_t arena_bytes(const sy_engine *twin)
{
    return twin->fixed.peak + twin->keep.peak + twin->block.peak + twin->scratch.peak;
}

static void format(const sy_engine *twin, char *buf, size_t buf_bytes)
{
    const sy_ledger *ledger = &twin->dev->ledger;
    size_t used = 0;
    buf[0] = '\0';
    for (int32_t tag = 0; tag < SY_N_MEM_TAGS && used < buf_bytes; tag++) {
        if (ledger->now[tag] > 0) {
            used += (size_t)snprintf(buf + used, buf_bytes - used, "%s %.1f, ",
                                     sy_mem_tag_name((sy_mem_tag)tag),
                                     (double)ledger->now[tag] / (1 << 20));
        }
    }
    if (used < buf_bytes) {
        snprintf(buf + used, buf_bytes - used, "activations %.1f",
                 (double)arena_bytes(twin) / (1 << 20));
    }
}

/* NCCL's buffers, kernels that are loaded at their first use, and what rounding takes of each
   block: of 80 GiB, 1.25. */
static int64_t set_apart(int64_t total_bytes)
{
    return total_bytes / 64;
}

sy_status sy_room_check(sy_device *dev, sy_engine *twin)
{
    sy_status st = SY_OK;
    sy_optimizer *opt = NULL;
    sy_grad_sync *grads = NULL;
    int64_t free_bytes = 0, total_bytes = 0;
    char parts[384];
    SY_TRY(sy_device_capacity(dev, &free_bytes, &total_bytes));
    if (total_bytes == 0) {
        goto cleanup;
    }
    if (twin->spec.use == SY_USE_TRAIN) {
        SY_TRY(add_training(twin, &opt, &grads));
    }
    const int64_t needed = twin->dev->ledger.total_now + arena_bytes(twin);
    /* What is ours already counts twice. */
    const int64_t room = free_bytes + dev->ledger.total_now - set_apart(total_bytes);
    format(twin, parts, sizeof parts);
    SY_REQUIRE(needed <= room, SY_ERR_USAGE,
               "a rank needs %.1f MiB of GPU memory (%s) and %.1f of %.1f are free for it: lower "
               "train.micro_batch, set train.recompute: block, or take more ranks (parallel.ep; "
               "parallel.zero: 2)",
               (double)needed / (1 << 20), parts, (double)room / (1 << 20),
               (double)total_bytes / (1 << 20));
cleanup:
    sy_grad_sync_destroy(&grads);
    sy_optimizer_destroy(&opt);
    return st;
}
