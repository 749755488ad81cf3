/* What a file says about itself. */
#include "checkpoint/checkpoint.h"

#include <string.h>

#include "checkpoint/catalog_impl.h"
#include "checkpoint/h5_impl.h"
#include "core/alloc.h"

static sy_status take_entry(const sy__item *item, sy_checkpoint_entry *out)
{
    sy_status st = SY_OK;
    out->dtype = item->dtype;
    out->n_dim = item->n_dim;
    memcpy(out->shape, item->shape, sizeof out->shape);
    SY_TRY(sy_strdup(item->path, &out->path));
cleanup:
    return st;
}

/* The texts change hands. */
static void take_attributes(sy__attributes *from, sy_checkpoint_info *to)
{
    to->kind = from->kind;
    to->config_yaml = from->config_yaml;
    to->producer = from->producer;
    to->created = from->created;
    to->step = from->step;
    to->tokens_seen = from->tokens_seen;
    *from = (sy__attributes){0};
}

sy_status sy_checkpoint_info_read(const char *path, sy_checkpoint_info *out)
{
    sy_status st = SY_OK;
    sy_checkpoint_info info = {0};
    sy__catalog cat = {0};
    sy__attributes attributes = {0};
    SY_TRY(sy__h5_scan(path, &cat, &attributes));
    SY_TRY(sy_alloc(cat.n_items, sizeof *info.entry, (void **)&info.entry));
    info.n_entries = (int32_t)cat.n_items;
    for (int32_t i = 0; i < info.n_entries; i++) {
        SY_TRY(take_entry(&cat.item[i], &info.entry[i]));
    }
    take_attributes(&attributes, &info);
    *out = info;
    info = (sy_checkpoint_info){0};
cleanup:
    sy_checkpoint_info_free(&info);
    sy__attributes_free(&attributes);
    sy__catalog_free(&cat);
    return st;
}

void sy_checkpoint_info_free(sy_checkpoint_info *info)
{
    for (int32_t i = 0; i < info->n_entries; i++) {
        sy_free(&info->entry[i].path);
    }
    sy_free(&info->entry);
    sy_free(&info->created);
    sy_free(&info->producer);
    sy_free(&info->config_yaml);
    sy_free(&info->kind);
    *info = (sy_checkpoint_info){0};
}
