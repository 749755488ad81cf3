#include "model/pass.h"

#include "core/alloc.h"

enum { HOST_CHUNK_BYTES = 64 << 10 };

static sy_status add_chunk(sy_host_arena *arena, int64_t bytes)
{
    sy_status st = SY_OK;
    char *chunk = NULL;
    SY_TRY(sy_realloc(arena->n_chunks + 1, sizeof *arena->chunk, (void **)&arena->chunk));
    SY_TRY(
        sy_realloc(arena->n_chunks + 1, sizeof *arena->chunk_bytes, (void **)&arena->chunk_bytes));
    SY_TRY(sy_alloc(bytes, 1, (void **)&chunk));
    arena->chunk[arena->n_chunks] = chunk;
    arena->chunk_bytes[arena->n_chunks++] = bytes;
cleanup:
    return st;
}

sy_status sy_host_arena_alloc(sy_host_arena *arena, int64_t bytes, void **out)
{
    sy_status st = SY_OK;
    bytes = (bytes + 63) / 64 * 64;
    while (arena->chunk_idx < arena->n_chunks &&
           arena->used + bytes > arena->chunk_bytes[arena->chunk_idx]) {
        arena->chunk_idx++;
        arena->used = 0;
    }
    if (arena->chunk_idx == arena->n_chunks) {
        SY_TRY(add_chunk(arena, bytes > HOST_CHUNK_BYTES ? bytes : HOST_CHUNK_BYTES));
    }
    *out = arena->chunk[arena->chunk_idx] + arena->used;
    if (arena->reused) { /* fresh chunks are zero, and pages nobody touches cost nothing */
        memset(*out, 0, (size_t)bytes);
    }
    arena->used += bytes;
cleanup:
    return st;
}

void sy_host_arena_reset(sy_host_arena *arena)
{
    arena->chunk_idx = 0;
    arena->used = 0;
    arena->reused = true;
}

void sy_host_arena_free(sy_host_arena *arena)
{
    for (int32_t i = 0; i < arena->n_chunks; i++) {
        sy_free(&arena->chunk[i]);
    }
    sy_free(&arena->chunk);
    sy_free(&arena->chunk_bytes);
    *arena = (sy_host_arena){0};
}

sy_status sy_scale_in_place(sy_pass *p, double factor, const sy_tensor *x)
{
    return factor == 1 ? SY_OK
                       : sy_scale(p->stream, &(sy_scale_args){.x = *x, .y = *x, .factor = factor});
}

sy_status sy_linear_forward(sy_pass *p, const sy_tensor *x, const sy_tensor *w, sy_tensor *y)
{
    return sy_gemm(p->stream,
                   &(sy_gemm_args){.a = *x, .b = *w, .c = *y, .trans_b = true, .alpha = 1});
}

sy_status sy_linear_dgrad(sy_pass *p, const sy_tensor *dy, const sy_tensor *w, sy_tensor *dx,
                          double beta)
{
    return sy_gemm(p->stream,
                   &(sy_gemm_args){.a = *dy, .b = *w, .c = *dx, .alpha = 1, .beta = beta});
}

sy_status sy_linear_wgrad(sy_pass *p, const sy_tensor *dy, const sy_tensor *x, const sy_tensor *dw)
{
    if (dw->data == NULL) {
        return SY_OK;
    }
    return sy_gemm(
        p->stream,
        &(sy_gemm_args){.a = *dy, .b = *x, .c = *dw, .trans_a = true, .alpha = 1, .beta = 1});
}
