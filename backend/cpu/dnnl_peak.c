/* One large product by oneDNN as it comes: the measured ceiling of the processor. The number of
   threads is a setting of OpenMP for the calling thread, so each call puts the old one back. */
#include "backend/cpu_peak.h"

#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <stdio.h>

#include "core/alloc.h"
#include "core/clock.h"

enum { SRC, WEIGHTS, DST, SCRATCH, N_MEMORIES };

struct sy_cpu_peak {
    int64_t n, bytes;
    int32_t threads;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t product;
    dnnl_memory_t memory[N_MEMORIES];
    void *data[N_MEMORIES];
};

#define DNNL_TRY(call)                                                                             \
    do {                                                                                           \
        dnnl_status_t rc_ = (call);                                                                \
        SY_REQUIRE(rc_ == dnnl_success, SY_ERR_INTERNAL, "oneDNN: %s failed with status %d",       \
                   #call, (int)rc_);                                                               \
    } while (0)

/* Random values: constants would flatter a chip whose power depends on the bits that flip. */
static void fill(void *data, sy_dtype dtype, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double x = (double)((uint64_t)i * 2654435761U % 1021) / 512 - 1;
        if (dtype == SY_BF16) {
            ((sy_bf16 *)data)[i] = sy_bf16_from_f32((float)x);
        } else {
            ((float *)data)[i] = (float)x;
        }
    }
}

static sy_status add_memory(sy_cpu_peak *p, int i, sy_dtype dtype, const dnnl_memory_desc_t *md)
{
    sy_status st = SY_OK;
    int64_t bytes = (int64_t)dnnl_memory_desc_get_size(md);
    SY_TRY(sy_alloc(bytes, 1, &p->data[i]));
    if (i != SCRATCH) {
        fill(p->data[i], dtype, bytes / (int64_t)sy_dtype_bytes(dtype));
    }
    DNNL_TRY(dnnl_memory_create(&p->memory[i], md, p->engine, p->data[i]));
    p->bytes += bytes;
cleanup:
    return st;
}

/* The layout of the weights is oneDNN's choice; its scratch is ours. */
static sy_status describe(sy_cpu_peak *p, dnnl_data_type_t type, dnnl_primitive_desc_t *out)
{
    sy_status st = SY_OK;
    const dnnl_dims_t dims = {p->n, p->n};
    dnnl_memory_desc_t plain, any;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&plain, 2, dims, type, dnnl_ab));
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&any, 2, dims, type, dnnl_format_tag_any));
    DNNL_TRY(dnnl_matmul_desc_init(&desc, &plain, &any, NULL, &plain));
    DNNL_TRY(dnnl_primitive_attr_create(&attr));
    DNNL_TRY(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    SY_REQUIRE(dnnl_primitive_desc_create(out, &desc, attr, p->engine, NULL) == dnnl_success,
               SY_ERR_UNSUPPORTED, "oneDNN has no such matrix product on this processor");
cleanup:
    dnnl_primitive_attr_destroy(attr);
    return st;
}

static sy_status build(sy_cpu_peak *p, sy_dtype dtype)
{
    sy_status st = SY_OK;
    dnnl_primitive_desc_t pd = NULL;
    DNNL_TRY(dnnl_engine_create(&p->engine, dnnl_cpu, 0));
    DNNL_TRY(dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags));
    SY_TRY(describe(p, dtype == SY_BF16 ? dnnl_bf16 : dnnl_f32, &pd));
    SY_TRY(add_memory(p, SRC, dtype, dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0)));
    SY_TRY(
        add_memory(p, WEIGHTS, dtype, dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0)));
    SY_TRY(add_memory(p, DST, dtype, dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0)));
    SY_TRY(add_memory(p, SCRATCH, dtype,
                      dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0)));
    DNNL_TRY(dnnl_primitive_create(&p->product, pd));
cleanup:
    dnnl_primitive_desc_destroy(pd);
    return st;
}

sy_status sy_cpu_peak_create(sy_dtype dtype, int64_t n, int32_t threads, sy_cpu_peak **out)
{
    sy_status st = SY_OK;
    sy_cpu_peak *p = NULL;
    const int threads_before = omp_get_max_threads();
    SY_REQUIRE(dtype == SY_F32 || dtype == SY_BF16, SY_ERR_UNSUPPORTED,
               "the matrix-product peak is measured in f32 or bf16, not %s", sy_dtype_name(dtype));
    SY_TRY(sy_alloc(1, sizeof *p, (void **)&p));
    p->n = n;
    p->threads = threads;
    omp_set_num_threads(threads);
    st = build(p, dtype);
    omp_set_num_threads(threads_before);
    SY_TRY(st);
    *out = p;
    p = NULL;
cleanup:
    sy_cpu_peak_destroy(&p);
    return st;
}

void sy_cpu_peak_destroy(sy_cpu_peak **peak)
{
    sy_cpu_peak *p = *peak;
    if (p == NULL) {
        return;
    }
    dnnl_primitive_destroy(p->product);
    for (int i = 0; i < N_MEMORIES; i++) {
        dnnl_memory_destroy(p->memory[i]);
        sy_free(&p->data[i]);
    }
    dnnl_stream_destroy(p->stream);
    dnnl_engine_destroy(p->engine);
    sy_free(peak);
}

sy_status sy_cpu_peak_run(sy_cpu_peak *p, double *flops_per_s)
{
    sy_status st = SY_OK;
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->memory[SRC]},
                                    {DNNL_ARG_WEIGHTS, p->memory[WEIGHTS]},
                                    {DNNL_ARG_DST, p->memory[DST]},
                                    {DNNL_ARG_SCRATCHPAD, p->memory[SCRATCH]}};
    const int threads_before = omp_get_max_threads();
    dnnl_status_t rc;
    double start = sy_clock_s();
    omp_set_num_threads(p->threads);
    rc = dnnl_primitive_execute(p->product, p->stream, 4, args);
    rc = rc == dnnl_success ? dnnl_stream_wait(p->stream) : rc;
    omp_set_num_threads(threads_before);
    SY_REQUIRE(rc == dnnl_success, SY_ERR_INTERNAL, "oneDNN: the product failed with status %d",
               (int)rc);
    *flops_per_s = 2.0 * (double)p->n * (double)p->n * (double)p->n / (sy_clock_s() - start);
cleanup:
    return st;
}

int64_t sy_cpu_peak_bytes(const sy_cpu_peak *peak)
{
    return peak->bytes;
}

void sy_cpu_library_format(char *buf, size_t buf_bytes)
{
    const dnnl_version_t *v = dnnl_version();
    const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    const char *name = "AVX2 or less; bf16 is emulated";
#if defined(__x86_64__)
    if (isa == dnnl_cpu_isa_avx512_core_amx) {
        name = "AMX, bf16 in hardware";
    } else if (isa == dnnl_cpu_isa_avx512_core_bf16) {
        name = "AVX-512 with bf16";
    } else if (isa == dnnl_cpu_isa_avx512_core_vnni || isa == dnnl_cpu_isa_avx512_core) {
        name = "AVX-512; bf16 is emulated";
    }
#endif
    snprintf(buf, buf_bytes, "oneDNN %d.%d.%d for %s (%d)", v->major, v->minor, v->patch, name,
             (int)isa);
}
