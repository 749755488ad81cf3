#include "parallel/units.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "parallel/agree.h"

/* Where a rank computes. Compared as text. */
typedef struct spot {
    char boot[40]; /* of the node's kernel: names of hosts may be alike */
    char node[64], backend[16], unit[32], model[144];
} spot;

static void read_boot(char *buf, size_t bytes)
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (f != NULL) {
        if (fgets(buf, (int)bytes, f) == NULL) {
            buf[0] = '\0';
        }
        fclose(f);
    }
}

/* Everybody's, by rank; freed with sy_free. */
static sy_status gather(sy_comm *host, const sy_device *dev, spot **out)
{
    sy_status st = SY_OK;
    spot mine, *all = NULL;
    memset(&mine, 0, sizeof mine);
    read_boot(mine.boot, sizeof mine.boot);
    gethostname(mine.node, sizeof mine.node - 1);
    if (dev) {
        snprintf(mine.backend, sizeof mine.backend, "%s", dev->name);
        snprintf(mine.unit, sizeof mine.unit, "%s", dev->unit);
        snprintf(mine.model, sizeof mine.model, "%s", dev->model);
    }
    SY_TRY(sy_agree(host, sy_alloc(host->size, sizeof *all, (void **)&all)));
    SY_TRY(sy_host_all_gather(host, &mine, all, sizeof mine, "units"));
    *out = all;
    all = NULL;
cleanup:
    sy_free(&all);
    return st;
}

sy_status sy_units_place(sy_comm *host, int32_t *place, int32_t *n_places)
{
    sy_status st = SY_OK;
    spot *all = NULL;
    int32_t before = 0, n = 0;
    SY_TRY(gather(host, NULL, &all));
    for (int32_t i = 0; i < host->size; i++) {
        const spot *mine = &all[host->rank];
        const bool beside =
            strcmp(all[i].boot, mine->boot) == 0 && strcmp(all[i].node, mine->node) == 0;
        before += beside && i < host->rank;
        n += beside;
    }
    *place = before;
    *n_places = n;
cleanup:
    sy_free(&all);
    return st;
}

sy_status sy_units_apart(sy_comm *host, const sy_device *dev)
{
    sy_status st = SY_OK;
    spot *all = NULL;
    SY_TRY(gather(host, dev, &all));
    for (int32_t i = 0; i < host->size; i++) {
        SY_REQUIRE(
            strcmp(all[i].backend, all[0].backend) == 0, SY_ERR_USAGE,
            "rank 0 on node %s computes with backend '%s', rank %d on node %s with '%s': set "
            "device.backend, or see why one of them finds no GPU",
            all[0].node, all[0].backend, i, all[i].node, all[i].backend);
        SY_REQUIRE(
            strcmp(all[i].model, all[0].model) == 0, SY_ERR_USAGE,
            "rank 0 on node %s has another GPU (%s) than rank %d on node %s (%s): take nodes "
            "with one kind, or name the GPUs of each in CUDA_VISIBLE_DEVICES",
            all[0].node, all[0].model, i, all[i].node, all[i].model);
        for (int32_t j = i + 1; j < host->size && all[i].unit[0]; j++) {
            SY_REQUIRE(memcmp(&all[i], &all[j], sizeof all[i]) != 0, SY_ERR_USAGE,
                       "ranks %d and %d on node %s have the same GPU (%s): give each rank one of "
                       "its own, or set SY_SHARE_GPU=1",
                       i, j, all[i].node, all[i].unit);
        }
    }
cleanup:
    sy_free(&all);
    return st;
}
