#include "train/tell_data.h"

#include "core/alloc.h"
#include "core/log.h"
#include "moe/router.h"
#include "parallel/agree.h"

static bool is_wanted(const sy_run_settings *settings)
{
    sy_router_layout layout = {0};
    if (settings->moe->experts > 0) {
        sy_router_layout_of(settings->moe, settings->model->hidden, &layout);
    }
    return layout.from_data;
}

sy_status sy_train_tell_data(sy_trainer *t)
{
    sy_status st = SY_OK, mine = SY_OK;
    sy_comm *world = t->engine->spec.world;
    const int64_t vocab = t->settings->model->vocab_size;
    sy_run_begin begin = {.stream = t->engine->compute_stream};
    double *share = NULL;
    if (!is_wanted(t->settings)) {
        return SY_OK;
    }
    SY_TRY(sy_agree(world, sy_alloc(vocab, sizeof *share, (void **)&share)));
    if (world->rank == 0) {
        mine = sy_loader_token_shares(t->loader, vocab, share);
    }
    SY_TRY(sy_agree(world, mine));
    SY_TRY(sy_host_broadcast(world, share, vocab * (int64_t)sizeof *share, 0, "token shares"));
    begin.share = share;
    SY_TRY(sy_agree(world, sy_model_begin(t->engine->model, &begin)));
    sy_info("the router's table of token ids is made from the training data");
cleanup:
    sy_free(&share);
    return st;
}
