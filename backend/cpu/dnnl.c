/* All calls of oneDNN. The device keeps one family of compiled products per dtype and a list of
   idle crews; a worker of a crew owns the memory objects through which it names its operands. */
#include "backend/cpu/dnnl_impl.h"

#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <pthread.h>
#include <sys/mman.h>

#include "core/alloc.h"

enum {
    N_M = 5,
    N_K = SY_TILE_K / SY_TILE_K_STEP,
    N_FAMILIES = 2,
    SCRATCH_BYTES = 64 << 10, /* of one product: oneDNN asks for far less */
    KERNEL_BYTES = 8 << 20    /* and what it takes while it makes a product, by far */
};

typedef struct family {
    bool made;
    sy_dtype dtype;            /* of the packed operands */
    dnnl_format_tag_t b_order; /* of b; both have the same bytes in fp32 */
    dnnl_primitive_t product[N_M][N_K];
} family;

typedef struct worker {
    dnnl_stream_t stream;
    dnnl_memory_t a[N_M][N_K], b[N_K], c[N_M], scratch;
    void *scratch_bytes;
} worker;

typedef struct products {
    pthread_mutex_t lock;
    dnnl_engine_t engine;
    family families[N_FAMILIES];
    sy__crew *idle[N_FAMILIES];
} products;

struct sy__crew {
    products *owner;
    sy__crew *next;
    const family *family;
    int32_t n_workers;
    worker *workers;
};

#define DNNL_TRY(call)                                                                             \
    do {                                                                                           \
        dnnl_status_t rc_ = (call);                                                                \
        SY_REQUIRE(rc_ == dnnl_success, SY_ERR_INTERNAL, "oneDNN: %s failed with status %d",       \
                   #call, (int)rc_);                                                               \
    } while (0)

static int64_t rows_of(int i)
{
    return (int64_t)SY_TILE_M_STEP << i;
}

static int64_t depth_of(int i)
{
    return (int64_t)(i + 1) * SY_TILE_K_STEP;
}

static dnnl_status_t describe(dnnl_memory_desc_t *md, int64_t rows, int64_t cols,
                              dnnl_data_type_t type, dnnl_format_tag_t order)
{
    const dnnl_dims_t dims = {rows, cols};
    return dnnl_memory_desc_init_by_tag(md, 2, dims, type, order);
}

static dnnl_data_type_t dnnl_type(sy_dtype dtype)
{
    return dtype == SY_BF16 ? dnnl_bf16 : dnnl_f32;
}

/* Products add to c and take their scratch from the caller. */
static sy_status make_attributes(dnnl_primitive_attr_t *out)
{
    sy_status st = SY_OK;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t post = NULL;
    DNNL_TRY(dnnl_primitive_attr_create(&attr));
    DNNL_TRY(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user));
    DNNL_TRY(dnnl_post_ops_create(&post));
    DNNL_TRY(dnnl_post_ops_append_sum(post, 1.0F));
    DNNL_TRY(dnnl_primitive_attr_set_post_ops(attr, post));
    *out = attr;
    attr = NULL;
cleanup:
    dnnl_post_ops_destroy(post);
    dnnl_primitive_attr_destroy(attr);
    return st;
}

/* oneDNN dies where it has no memory to write a kernel into: whether there is room is asked before.
 */
static sy_status check_room(void)
{
    void *room =
        mmap(NULL, KERNEL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) {
        return sy_error(SY_ERR_MEMORY,
                        "out of memory: there are no %d bytes for a kernel of oneDNN and what it "
                        "needs to make it",
                        KERNEL_BYTES);
    }
    munmap(room, KERNEL_BYTES);
    return SY_OK;
}

/* One product of a family; *fast: oneDNN has a tile kernel for it, not only a general one. */
static sy_status make_product(dnnl_engine_t engine, const family *f, int mi, int ki,
                              dnnl_primitive_t *out, bool *fast)
{
    sy_status st = SY_OK;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t desc;
    const dnnl_data_type_t type = dnnl_type(f->dtype);
    const char *name = "";

    SY_TRY(make_attributes(&attr));
    DNNL_TRY(describe(&a, rows_of(mi), depth_of(ki), type, dnnl_ab));
    DNNL_TRY(describe(&b, depth_of(ki), SY_TILE_N, type, f->b_order));
    DNNL_TRY(describe(&c, rows_of(mi), SY_TILE_N, dnnl_f32, dnnl_ab));
    DNNL_TRY(dnnl_matmul_desc_init(&desc, &a, &b, NULL, &c));
    *fast = false;
    if (dnnl_primitive_desc_create(&pd, &desc, attr, engine, NULL) != dnnl_success) {
        goto cleanup;
    }
    DNNL_TRY(dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name));
    const dnnl_memory_desc_t *scratch =
        dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    SY_REQUIRE(dnnl_memory_desc_get_size(scratch) <= SCRATCH_BYTES, SY_ERR_INTERNAL,
               "oneDNN wants %zu bytes of scratch for a small product, at most %d are kept",
               dnnl_memory_desc_get_size(scratch), (int)SCRATCH_BYTES);
    SY_TRY(check_room());
    DNNL_TRY(dnnl_primitive_create(out, pd));
    *fast = strncmp(name, "brg:", 4) == 0;
cleanup:
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_attr_destroy(attr);
    return st;
}

static void free_family(family *f)
{
    for (int mi = 0; mi < N_M; mi++) {
        for (int ki = 0; ki < N_K; ki++) {
            dnnl_primitive_destroy(f->product[mi][ki]);
            f->product[mi][ki] = NULL;
        }
    }
}

/* All products of the family; *fast as above, of the first. */
static sy_status make_family(dnnl_engine_t engine, sy_dtype dtype, dnnl_format_tag_t b_order,
                             family *out, bool *fast)
{
    sy_status st = SY_OK;
    family f = {.dtype = dtype, .b_order = b_order};
    SY_TRY(make_product(engine, &f, N_M - 1, N_K - 1, &f.product[N_M - 1][N_K - 1], fast));
    for (int i = 0; i < N_M * N_K && (*fast || b_order == dnnl_ab); i++) {
        dnnl_primitive_t *product = &f.product[i / N_K][i % N_K];
        bool ignored = false;
        if (*product == NULL) {
            SY_TRY(make_product(engine, &f, i / N_K, i % N_K, product, &ignored));
        }
        SY_REQUIRE(*product != NULL, SY_ERR_UNSUPPORTED,
                   "oneDNN has no %s product on this processor", sy_dtype_name(dtype));
    }
    f.made = true;
    *out = f;
cleanup:
    if (st != SY_OK) {
        free_family(&f);
    }
    return st;
}

/* The fastest family that this processor has: tile kernels in the dtype asked for, else in fp32,
 * else general products of fp32. */
static sy_status choose_family(dnnl_engine_t engine, sy_dtype dtype, family *out)
{
    static const struct {
        sy_dtype dtype;
        dnnl_format_tag_t b_order;
    } choices[] = {{SY_BF16, dnnl_BA16a64b2a}, {SY_F32, dnnl_BA16a64b}, {SY_F32, dnnl_ab}};
    sy_status st = SY_OK;
    bool fast = false;
    for (int i = dtype == SY_BF16 ? 0 : 1; i < 3 && !out->made; i++) {
        SY_TRY(make_family(engine, choices[i].dtype, choices[i].b_order, out, &fast));
        if (!fast && choices[i].b_order != dnnl_ab) {
            free_family(out);
            out->made = false;
        }
    }
cleanup:
    return st;
}

static void free_worker(worker *w)
{
    for (int mi = 0; mi < N_M; mi++) {
        for (int ki = 0; ki < N_K; ki++) {
            dnnl_memory_destroy(w->a[mi][ki]);
        }
        dnnl_memory_destroy(w->c[mi]);
    }
    for (int ki = 0; ki < N_K; ki++) {
        dnnl_memory_destroy(w->b[ki]);
    }
    dnnl_memory_destroy(w->scratch);
    dnnl_stream_destroy(w->stream);
    sy_free(&w->scratch_bytes);
}

static sy_status make_memory(dnnl_engine_t engine, int64_t rows, int64_t cols, sy_dtype dtype,
                             dnnl_format_tag_t order, dnnl_memory_t *out)
{
    sy_status st = SY_OK;
    dnnl_memory_desc_t md;
    DNNL_TRY(describe(&md, rows, cols, dnnl_type(dtype), order));
    DNNL_TRY(dnnl_memory_create(out, &md, engine, DNNL_MEMORY_NONE));
cleanup:
    return st;
}

static sy_status make_worker(dnnl_engine_t engine, const family *f, worker *w)
{
    sy_status st = SY_OK;
    const dnnl_dims_t bytes = {SCRATCH_BYTES};
    dnnl_memory_desc_t md;
    for (int ki = 0; ki < N_K; ki++) {
        for (int mi = 0; mi < N_M; mi++) {
            SY_TRY(
                make_memory(engine, rows_of(mi), depth_of(ki), f->dtype, dnnl_ab, &w->a[mi][ki]));
        }
        SY_TRY(make_memory(engine, depth_of(ki), SY_TILE_N, f->dtype, f->b_order, &w->b[ki]));
    }
    for (int mi = 0; mi < N_M; mi++) {
        SY_TRY(make_memory(engine, rows_of(mi), SY_TILE_N, SY_F32, dnnl_ab, &w->c[mi]));
    }
    SY_TRY(sy_alloc(SCRATCH_BYTES, 1, &w->scratch_bytes));
    DNNL_TRY(dnnl_memory_desc_init_by_tag(&md, 1, bytes, dnnl_u8, dnnl_a));
    DNNL_TRY(dnnl_memory_create(&w->scratch, &md, engine, w->scratch_bytes));
    DNNL_TRY(dnnl_stream_create(&w->stream, engine, dnnl_stream_default_flags));
cleanup:
    return st;
}

static void free_crew(sy__crew *crew)
{
    for (int32_t i = 0; crew && i < crew->n_workers; i++) {
        free_worker(&crew->workers[i]);
    }
    if (crew) {
        sy_free(&crew->workers);
    }
    sy_free(&crew);
}

static sy_status make_crew(products *owner, const family *f, int32_t n_workers, sy__crew **out)
{
    sy_status st = SY_OK;
    sy__crew *crew = NULL;
    SY_TRY(sy_alloc(1, sizeof *crew, (void **)&crew));
    crew->owner = owner;
    crew->family = f;
    SY_TRY(sy_alloc(n_workers, sizeof *crew->workers, (void **)&crew->workers));
    crew->n_workers = n_workers;
    for (int32_t i = 0; i < n_workers; i++) {
        SY_TRY(make_worker(owner->engine, f, &crew->workers[i]));
    }
    *out = crew;
    crew = NULL;
cleanup:
    free_crew(crew);
    return st;
}

static void free_products(void *ops_self)
{
    products *p = ops_self;
    for (int i = 0; i < N_FAMILIES; i++) {
        for (sy__crew *crew = p->idle[i]; crew; crew = p->idle[i]) {
            p->idle[i] = crew->next;
            free_crew(crew);
        }
        free_family(&p->families[i]);
    }
    dnnl_engine_destroy(p->engine);
    pthread_mutex_destroy(&p->lock);
    sy_free(&p);
}

/* The device's products. Two streams may come here at the same time: the first to finish is kept.
 */
static sy_status products_of(sy_device *dev, products **out)
{
    sy_status st = SY_OK;
    products *made = NULL;
    void *there = __atomic_load_n(&dev->ops_self, __ATOMIC_ACQUIRE);
    if (!there) {
        SY_TRY(sy_alloc(1, sizeof *made, (void **)&made));
        DNNL_TRY(dnnl_engine_create(&made->engine, dnnl_cpu, 0));
        pthread_mutex_init(&made->lock, NULL);
        if (__atomic_compare_exchange_n(&dev->ops_self, &there, made, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
            dev->ops_self_free = free_products;
            there = made;
            made = NULL;
        }
    }
    *out = there;
cleanup:
    if (made && made->engine) {
        free_products(made);
        made = NULL;
    }
    sy_free(&made);
    return st;
}

/* The lock is held. Products must not bring threads of their own, so they are made where one is
   allowed: in a region, the setting ends with it. */
static sy_status make_crew_alone(products *p, int kind, sy_dtype dtype, int32_t n_workers,
                                 sy__crew **out)
{
    sy_status st = SY_OK;
#pragma omp parallel num_threads(1)
    {
        omp_set_num_threads(1);
        if (!p->families[kind].made) {
            st = choose_family(p->engine, dtype, &p->families[kind]);
        }
        if (st == SY_OK) {
            st = make_crew(p, &p->families[kind], n_workers, out);
        }
    }
    return st;
}

sy_status sy__crew_borrow(sy_device *dev, sy_dtype dtype, sy__crew **out)
{
    sy_status st = SY_OK;
    products *p = NULL;
    const int kind = dtype == SY_BF16 ? 1 : 0;
    SY_TRY(products_of(dev, &p));
    pthread_mutex_lock(&p->lock);
    if (p->idle[kind]) {
        *out = p->idle[kind];
        p->idle[kind] = (*out)->next;
    } else {
        st = make_crew_alone(p, kind, dtype, dev->n_threads, out);
    }
    pthread_mutex_unlock(&p->lock);
cleanup:
    return st;
}

void sy__crew_return(sy__crew **crew)
{
    if (*crew) {
        products *p = (*crew)->owner;
        const ptrdiff_t kind = (*crew)->family - p->families;
        pthread_mutex_lock(&p->lock);
        (*crew)->next = p->idle[kind];
        p->idle[kind] = *crew;
        pthread_mutex_unlock(&p->lock);
        *crew = NULL;
    }
}

sy_dtype sy__crew_dtype(const sy__crew *crew)
{
    return crew->family->dtype;
}

int64_t sy__crew_min_rows(const sy__crew *crew)
{
    return crew->family->b_order == dnnl_ab ? SY_TILE_M : SY_TILE_M_STEP;
}

bool sy__tile_product(sy__crew *crew, int i_worker, int64_t m, int64_t k, const void *a,
                      const void *b, float *c)
{
    const int mi = __builtin_ctzll((uint64_t)m / SY_TILE_M_STEP);
    const int ki = (int)(k / SY_TILE_K_STEP) - 1;
    worker *w = &crew->workers[i_worker];
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, w->a[mi][ki]},
                                    {DNNL_ARG_WEIGHTS, w->b[ki]},
                                    {DNNL_ARG_DST, w->c[mi]},
                                    {DNNL_ARG_SCRATCHPAD, w->scratch}};
    return dnnl_memory_set_data_handle(w->a[mi][ki], (void *)a) == dnnl_success &&
           dnnl_memory_set_data_handle(w->b[ki], (void *)b) == dnnl_success &&
           dnnl_memory_set_data_handle(w->c[mi], c) == dnnl_success &&
           dnnl_primitive_execute(crew->family->product[mi][ki], w->stream, 4, args) ==
               dnnl_success;
}
