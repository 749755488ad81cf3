/* The check backend: opening it, its memory, its table. It computes with the ops of cpu, so that
 * results have the same bits. */
#include "backend/check/check_impl.h"

#include <string.h>

#include "backend/cpu/cpu_impl.h"
#include "core/alloc.h"
#include "core/log.h"

static sy_status check_open(sy_device *dev)
{
    sy_status st = SY_OK;
    sy__check *check = NULL;
    SY_TRY(sy_alloc(1, sizeof *check, (void **)&check));
    SY_TRY(sy__region_open(&check->region));
    check->dev = dev;
    pthread_mutex_init(&check->lock, NULL);
    pthread_cond_init(&check->progress, NULL);
    for (int32_t i = 0; i < SY__LANES; i++) {
        check->lanes[i].check = check;
    }
    dev->self = check;
    check = NULL;
cleanup:
    sy_free(&check);
    return st;
}

static void check_close(sy_device *dev)
{
    sy__check *check = sy__check_of(dev);
    sy__region_close(&check->region);
    pthread_cond_destroy(&check->progress);
    pthread_mutex_destroy(&check->lock);
    sy_free(&dev->self);
}

static sy_status check_alloc(sy_device *dev, int64_t bytes, void **out)
{
    sy__check *check = sy__check_of(dev);
    pthread_mutex_lock(&check->lock);
    sy_status st = sy__region_alloc(&check->region, bytes, out);
    pthread_mutex_unlock(&check->lock);
    return st;
}

/* Freeing has no way to return what it finds: the next wait does. The error that the caller may be
 * on its way with is left alone. */
static void verify_freed(sy__check *check, const void *ptr)
{
    sy_trace of_caller;
    sy_error_take(&of_caller);
    sy_error_clear();
    if (sy__region_verify(&check->region, ptr, "sy_device_free") != SY_OK) {
        sy_error_take(&check->late);
        sy_log(SY_LOG_ERROR, "%s", check->late.message);
        sy_error_clear();
    }
    if (of_caller.status != SY_OK) {
        sy_error_raise(&of_caller);
    }
}

/* Like a real device, freeing waits for whatever may still use the block. */
static void check_free(sy_device *dev, void *ptr, int64_t bytes)
{
    sy__check *check = sy__check_of(dev);
    sy__range whole = sy__range_of_bytes(ptr, bytes), piece;
    pthread_mutex_lock(&check->lock);
    sy__lane_await_all(check);
    verify_freed(check, ptr);
    while (sy__undefined_take(check, &whole, &piece)) {
    }
    sy__region_free(&check->region, ptr);
    pthread_mutex_unlock(&check->lock);
}

static void *check_host_view(const sy_device *dev, const void *ptr)
{
    sy__check *check = sy__check_of(dev);
    if (sy__region_has(&check->region, ptr)) {
        pthread_mutex_lock(&check->lock);
        sy__undefined_forget_at(check, ptr);
        pthread_mutex_unlock(&check->lock);
    }
    return sy__region_view(&check->region, ptr);
}

static const sy_device_vt check_vt = {
    .open = check_open,
    .close = check_close,
    .alloc = check_alloc,
    .free = check_free,
    .host_view = check_host_view,
    .undefine = sy__undefined_add,
    .stream_create = sy__lane_create,
    .stream_destroy = sy__lane_destroy,
    .sync = sy__check_sync,
    .copy = sy__check_copy,
    .zero = sy__check_zero,
    .call = sy__check_call,
    .announce = sy__check_announce,
    .run_op = sy__check_run_op,
    .event_create = sy__check_event_create,
    .event_destroy = sy__check_event_destroy,
    .event_record = sy__check_event_record,
    .stream_wait = sy__check_stream_wait,
    .event_sync = sy__check_event_sync,
    .event_done = sy__check_event_done,
};

const sy_backend sy__backend_check = {
    .name = "check", .describe = sy__host_describe_cpu, .vt = &check_vt, .ops = &sy__cpu_ops};
