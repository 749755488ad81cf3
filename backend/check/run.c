/* A task on its worker. The elements that an op has to write are poisoned before it runs and looked
   for afterwards, and the red zones of the blocks it touched must be as they were. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backend/check/check_impl.h"

/* ---- operands ---- */

const sy_tensor *sy__operand(const void *args, const sy_operand *operand)
{
    return (const sy_tensor *)(const void *)((const char *)args + operand->offset);
}

sy_role sy__operand_role(const void *args, const sy_operand *operand)
{
    if (operand->role != SY_ROLE_OUT_IF_ZERO) {
        return operand->role;
    }
    double beta = 0;
    memcpy(&beta, (const char *)args + operand->beta_offset, sizeof beta);
    return beta == 0 ? SY_ROLE_OUT : SY_ROLE_UPDATE;
}

/* An output that may be one of the inputs, and is: it can be neither poisoned nor inspected. */
static bool is_shared(const sy_op_info *info, const void *args, int32_t i)
{
    sy__range mine = sy__range_of(sy__operand(args, &info->operands[i]));
    for (int32_t j = 0; j < info->n_operands; j++) {
        sy__range other = sy__range_of(sy__operand(args, &info->operands[j]));
        if (j != i && sy__ranges_meet(&mine, &other)) {
            return true;
        }
    }
    return false;
}

/* ---- on the worker ---- */

/* Copies of bytes may copy any byte; of all other dtypes the poison is not a value that data has.
 */
static bool can_tell(sy_op op, const sy_tensor *t)
{
    bool copies = op == SY_OP_fill || op == SY_OP_cast || op == SY_OP_gather_rows;
    return t->dtype != SY_U8 || !copies;
}

static sy_status report_unwritten(const char *op, const char *operand, const sy_tensor *t,
                                  int64_t count, const int64_t *index)
{
    char place[96] = "";
    size_t n = 0;
    for (int32_t d = 0; d < t->n_dim && n < sizeof place; d++) {
        n += (size_t)snprintf(place + n, sizeof place - n, "%s%" PRId64, d ? ", " : "", index[d]);
    }
    if (count == 1) {
        return sy_error(SY_ERR_INTERNAL, "op %s: %s[%s] never written", op, operand, place);
    }
    return sy_error(SY_ERR_INTERNAL,
                    "op %s: %s[%s] never written, nor are %" PRId64 " more of its elements", op,
                    operand, place, count - 1);
}

static sy_status verify_zones(sy__check *check, const void *view, const char *op,
                              const char *operand)
{
    char who[64];
    snprintf(who, sizeof who, "op %s: %s", op, operand);
    pthread_mutex_lock(&check->lock);
    sy_status st = sy__region_verify(&check->region, (const char *)view - check->region.bytes, who);
    pthread_mutex_unlock(&check->lock);
    return st;
}

static sy_status run_op(sy__lane *lane, sy__task *task)
{
    sy_status st = SY_OK;
    const sy_op_info *info = sy_op_describe((sy_op)task->op);
    bool inspected[SY__MAX_OPERANDS] = {false};
    for (int32_t i = 0; i < info->n_operands; i++) {
        const sy_tensor *t = sy__operand(task->args, &info->operands[i]);
        inspected[i] = sy__operand_role(task->args, &info->operands[i]) == SY_ROLE_OUT &&
                       sy_tensor_numel(t) > 0 && can_tell((sy_op)task->op, t) &&
                       !is_shared(info, task->args, i);
        if (inspected[i]) {
            sy__view_poison(t);
        }
    }
    SY_TRY(task->run(lane->stream, task->args));
    for (int32_t i = 0; i < info->n_operands; i++) {
        const sy_tensor *t = sy__operand(task->args, &info->operands[i]);
        int64_t index[SY_MAX_DIM] = {0}, count = inspected[i] ? sy__view_count_poison(t, index) : 0;
        if (count > 0) {
            st = report_unwritten(info->name, info->operands[i].name, t, count, index);
            goto cleanup;
        }
        if (t->data) {
            SY_TRY(verify_zones(lane->check, t->data, info->name, info->operands[i].name));
        }
    }
    SY_TRY(verify_zones(lane->check, sy_stream_workspace(lane->stream), info->name, "workspace"));
cleanup:
    return st;
}

sy_status sy__task_run(sy__lane *lane, sy__task *task)
{
    return task->op >= 0 ? run_op(lane, task) : task->run(lane->stream, task->args);
}
