/* Making, filling and asking cuDNN's descriptors. */
#include "backend/cuda/sdpa_impl.h"

static void check(sy__sdpa_builder *b, int status)
{
    b->declined = b->declined || status != SY_CUDNN_SUCCESS;
}

void *sy__desc_create(sy__sdpa_builder *b, sy_cudnn_kind kind)
{
    void *desc = NULL;
    if (b->declined || b->out->n_desc == SY__SDPA_DESCRIPTORS) {
        b->declined = true;
        return NULL;
    }
    check(b, b->lib->cudnnBackendCreateDescriptor((int)kind, &desc));
    if (!b->declined) {
        b->out->desc[b->out->n_desc++] = desc;
    }
    return desc;
}

void sy__desc_set(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute, sy_cudnn_of of,
                  int64_t count, const void *elements)
{
    if (!b->declined) {
        check(b, b->lib->cudnnBackendSetAttribute(desc, (int)attribute, (int)of, count, elements));
    }
}

void sy__desc_set_int(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute, sy_cudnn_of of,
                      int value)
{
    sy__desc_set(b, desc, attribute, of, 1, &value);
}

void sy__desc_set_int64(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute,
                        int64_t value)
{
    sy__desc_set(b, desc, attribute, SY_CUDNN_OF_INT64, 1, &value);
}

void sy__desc_set_true(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute)
{
    const bool yes = true;
    sy__desc_set(b, desc, attribute, SY_CUDNN_OF_BOOLEAN, 1, &yes);
}

void sy__desc_set_desc(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute, void *value)
{
    sy__desc_set(b, desc, attribute, SY_CUDNN_OF_DESCRIPTOR, 1, &value);
}

void sy__desc_finish(sy__sdpa_builder *b, void *desc)
{
    if (!b->declined) {
        check(b, b->lib->cudnnBackendFinalize(desc));
    }
}

int64_t sy__desc_get(sy__sdpa_builder *b, void *desc, sy_cudnn_attribute attribute, sy_cudnn_of of,
                     int64_t room, void *elements)
{
    int64_t n = 0;
    if (!b->declined) {
        check(b,
              b->lib->cudnnBackendGetAttribute(desc, (int)attribute, (int)of, room, &n, elements));
    }
    return b->declined ? 0 : n < room ? n : room;
}

void sy__sdpa_free(const sy_cudnn *lib, sy__sdpa_plan *plan)
{
    for (int32_t i = plan->n_desc - 1; i >= 0; i--) {
        lib->cudnnBackendDestroyDescriptor(plan->desc[i]);
    }
    plan->n_desc = 0;
    plan->plan = NULL;
}
