/* What the host hands to a lane: copies, calls and ops. Operands must be device memory and in order
   with what other lanes do; that is verified before anything is enqueued. */
#include <inttypes.h>
#include <string.h>

#include "backend/check/check_impl.h"

typedef struct copy_args {
    void *dst;
    const void *src;
    int64_t bytes;
} copy_args;

static sy_status run_copy(sy_stream *stream, const void *args)
{
    (void)stream;
    const copy_args *a = args;
    memmove(a->dst, a->src, (size_t)a->bytes);
    return SY_OK;
}

static sy_status run_zero(sy_stream *stream, const void *args)
{
    (void)stream;
    const copy_args *a = args;
    memset(a->dst, 0, (size_t)a->bytes);
    return SY_OK;
}

static sy_status run_undefine(sy_stream *stream, const void *args)
{
    (void)stream;
    const copy_args *a = args;
    memset(a->dst, 0xff, (size_t)a->bytes); /* NaN as any float, -1 as any integer */
    return SY_OK;
}

/* ---- accesses ---- */

static sy_status verify_device_memory(const sy__lane *lane, const sy__access *access)
{
    const sy__region *region = &lane->check->region;
    const void *first = (const void *)access->range.first;
    if (access->range.bytes == 0 ||
        sy__region_covers(region, access->range.first, access->range.bytes)) {
        return SY_OK;
    }
    return sy_error(SY_ERR_INTERNAL, "%s%s on stream '%s': %s is %s (%p, %" PRId64 " bytes)",
                    access->kind, access->what, lane->stream->name, access->operand,
                    sy__region_has(region, first) ? "not inside one block of device memory"
                                                  : "not device memory",
                    first, access->range.bytes);
}

static sy_status verify_host_memory(const sy__lane *lane, const sy__access *access)
{
    if (!sy__region_has(&lane->check->region, (const void *)access->range.first)) {
        return SY_OK;
    }
    return sy_error(SY_ERR_INTERNAL,
                    "%s on stream '%s': %s is device memory where host memory is wanted",
                    access->what, lane->stream->name, access->operand);
}

static sy_status verify(const sy__lane *lane, const sy__access *accesses, int32_t n)
{
    sy_status st = SY_OK;
    for (int32_t i = 0; i < n; i++) {
        SY_TRY(accesses[i].on_host ? verify_host_memory(lane, &accesses[i])
                                   : verify_device_memory(lane, &accesses[i]));
        SY_TRY(sy__order_verify(lane, &accesses[i]));
    }
cleanup:
    return st;
}

/* ---- tasks ---- */

static sy__task *begin_task(sy__lane *lane, sy_call *run, const void *args, int64_t args_bytes)
{
    sy__task *task = sy__lane_reserve(lane);
    task->run = run;
    if (args_bytes > 0) {
        memcpy(task->args, args, (size_t)args_bytes);
    }
    return task;
}

/* Memory that nobody has written yet since it was handed out: it gets its NaN here, in the order of
 * the lane that reads it first. */
static void settle_undefined(sy__lane *lane, const sy__access *access)
{
    sy__range piece;
    bool reads = !access->overwrites && access->range.pitch == 0;
    while (sy__undefined_take(lane->check, &access->range, &piece)) {
        if (reads) {
            void *view = sy__region_view(&lane->check->region, (void *)piece.first);
            copy_args args = {.dst = view, .bytes = piece.bytes};
            begin_task(lane, run_undefine, &args, sizeof args);
            sy__lane_push(lane);
        }
    }
}

static void note(sy__lane *lane, const sy__access *accesses, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        settle_undefined(lane, &accesses[i]);
    }
    for (int32_t i = 0; i < n; i++) {
        sy__order_note(lane, &accesses[i]);
    }
}

static sy_status enqueue_copy(sy_stream *stream, sy_call *run, const sy__access *accesses,
                              int32_t n, copy_args args)
{
    sy_status st = SY_OK;
    sy__lane *lane = sy__lane_of(stream);
    pthread_mutex_lock(&lane->check->lock);
    SY_TRY(verify(lane, accesses, n));
    if (accesses[0].on_host && !sy__order_pending(lane->check, &accesses[0].range)) {
        memset(args.dst, 0xff,
               (size_t)
                   args.bytes); /* who reads the destination of a d2h before it has run finds NaN */
    }
    note(lane, accesses, n);
    args.dst = sy__region_view(&lane->check->region, args.dst);
    args.src = sy__region_view(&lane->check->region, args.src);
    begin_task(lane, run, &args, sizeof args);
    sy__lane_push(lane);
cleanup:
    pthread_mutex_unlock(&lane->check->lock);
    return st;
}

sy_status sy__check_copy(sy_stream *stream, sy_copy_kind kind, void *dst, const void *src,
                         int64_t bytes)
{
    static const char *const names[] = {[SY_COPY_H2D] = "sy_copy_h2d",
                                        [SY_COPY_D2H] = "sy_copy_d2h",
                                        [SY_COPY_D2D] = "sy_copy_d2d"};
    const sy__access accesses[] = {{.range = sy__range_of_bytes(dst, bytes),
                                    .writes = true,
                                    .overwrites = true,
                                    .on_host = kind == SY_COPY_D2H,
                                    .kind = "",
                                    .what = names[kind],
                                    .operand = "dst"},
                                   {.range = sy__range_of_bytes(src, bytes),
                                    .on_host = kind == SY_COPY_H2D,
                                    .kind = "",
                                    .what = names[kind],
                                    .operand = "src"}};
    return enqueue_copy(stream, run_copy, accesses, 2,
                        (copy_args){.dst = dst, .src = src, .bytes = bytes});
}

sy_status sy__check_zero(sy_stream *stream, void *dst, int64_t bytes)
{
    const sy__access access = {.range = sy__range_of_bytes(dst, bytes),
                               .writes = true,
                               .overwrites = true,
                               .kind = "",
                               .what = "sy_zero",
                               .operand = "dst"};
    return enqueue_copy(stream, run_zero, &access, 1, (copy_args){.dst = dst, .bytes = bytes});
}

sy_status sy__check_announce(sy_stream *stream, const void *ptr, int64_t bytes, bool writes)
{
    sy_status st = SY_OK;
    sy__lane *lane = sy__lane_of(stream);
    const sy__access access = {.range = sy__range_of_bytes(ptr, bytes),
                               .writes = writes,
                               .overwrites = writes,
                               .kind = "",
                               .what = "a call",
                               .operand = writes ? "what it announced to write"
                                                 : "what it announced to read"};
    pthread_mutex_lock(&lane->check->lock);
    SY_TRY(verify(lane, &access, 1));
    note(lane, &access, 1);
    lane->announced = true;
cleanup:
    pthread_mutex_unlock(&lane->check->lock);
    return st;
}

sy_status sy__check_call(sy_stream *stream, sy_call *fn, const void *args, int64_t args_bytes)
{
    sy__lane *lane = sy__lane_of(stream);
    pthread_mutex_lock(&lane->check->lock);
    if (!lane->announced) {
        sy__undefined_forget(lane->check); /* it may write anything */
    }
    lane->announced = false;
    begin_task(lane, fn, args, args_bytes);
    sy__lane_push(lane);
    pthread_mutex_unlock(&lane->check->lock);
    return SY_OK;
}

/* ---- ops ---- */

static int32_t list_accesses(const sy_op_info *info, const void *args, sy__access *accesses)
{
    for (int32_t i = 0; i < info->n_operands; i++) {
        sy_role role = sy__operand_role(args, &info->operands[i]);
        accesses[i] = (sy__access){.range = sy__range_of(sy__operand(args, &info->operands[i])),
                                   .writes = role != SY_ROLE_IN,
                                   .overwrites = role == SY_ROLE_OUT,
                                   .kind = "op ",
                                   .what = info->name,
                                   .operand = info->operands[i].name};
    }
    return info->n_operands;
}

static void use_views(const sy__check *check, const sy_op_info *info, char *args)
{
    for (int32_t i = 0; i < info->n_operands; i++) {
        sy_tensor *t = (sy_tensor *)(void *)(args + info->operands[i].offset);
        t->data = sy__region_view(&check->region, t->data);
    }
}

sy_status sy__check_run_op(sy_stream *stream, sy_op op, sy_call *run, const void *args,
                           int64_t args_bytes)
{
    sy_status st = SY_OK;
    sy__lane *lane = sy__lane_of(stream);
    const sy_op_info *info = sy_op_describe(op);
    sy__access accesses[SY__MAX_OPERANDS];
    int32_t n = list_accesses(info, args, accesses);
    pthread_mutex_lock(&lane->check->lock);
    SY_TRY(verify(lane, accesses, n));
    note(lane, accesses, n);
    sy__task *task = begin_task(lane, run, args, args_bytes);
    task->op = (int32_t)op;
    use_views(lane->check, info, task->args);
    sy__lane_push(lane);
cleanup:
    pthread_mutex_unlock(&lane->check->lock);
    return st;
}
