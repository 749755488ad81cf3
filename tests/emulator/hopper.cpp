/* Hopper's copy engine, barriers in shared memory and products of warpgroups, said plainly. A copy
   runs as early as it may, when it is asked for; a product as late as it may, when somebody waits
   for it: so a stage that is filled again too early, or sums that are read too early, give other
   numbers. On every third stream a product reads its matrices as early as it may, when the first
   thread asks for it: so does a stage that some threads still write. Matrices are read by their
   descriptors, number by number, as the PTX manual defines them
   ("matrix descriptor", "canonical layouts", "swizzling modes"); CUTLASS writes the same down in
   cute/arch/mma_sm90_desc.hpp and cute/atom/mma_traits_sm90_gmma.hpp. */
#include <cstdio>
#include <cstdlib>

#include <cuda.h>

namespace
{

[[noreturn]] void fail(const char *what)
{
    fprintf(stderr, "emulator: %s, block %u %u %u, thread %u\n", what, blockIdx.x, blockIdx.y,
            blockIdx.z, threadIdx.x);
    abort();
}

void want(bool ok, const char *what)
{
    if (!ok) {
        fail(what);
    }
}

/* Bits 4-6 of an address are changed by bits 7-9: 16 bytes change places within 128. */
unsigned swizzled(unsigned address)
{
    return address ^ (address >> 7 & 7) << 4;
}

} // namespace

/* ---- barriers ---- */

namespace
{

struct mbarrier {
    int32_t bytes;
    uint16_t arrivals;
    uint16_t missing : 15, phase : 1;
};
static_assert(sizeof(mbarrier) == 8, "it lies in 64 bits");

void settle(mbarrier *b)
{
    if (b->missing == 0 && b->bytes == 0) {
        b->phase ^= 1;
        b->missing = b->arrivals;
    }
}

struct wish {
    const mbarrier *b;
    unsigned parity;
};

bool is_over(const void *about)
{
    const wish *w = (const wish *)about;
    return w->b->phase != w->parity;
}

} // namespace

void emulator_barrier_init(uint64_t *barrier, unsigned arrivals)
{
    const mbarrier b = {0, (uint16_t)arrivals, (uint16_t)arrivals, 0};
    memcpy(barrier, &b, sizeof b);
}

void emulator_barrier_arrive(uint64_t *barrier, unsigned more_bytes)
{
    mbarrier *b = (mbarrier *)barrier;
    want(b->missing > 0, "more arrivals at a barrier than it has");
    b->bytes += (int32_t)more_bytes;
    b->missing--;
    settle(b);
}

void emulator_barrier_wait(const uint64_t *barrier, unsigned parity, emulator_site site)
{
    const wish w = {(const mbarrier *)barrier, parity};
    emulator_wait(is_over, &w, site);
}

/* ---- copies ---- */

CUresult cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank,
                                void *data, const cuuint64_t *extent, const cuuint64_t *stride,
                                const cuuint32_t *box, const cuuint32_t *element_stride,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill fill)
{
    bool ok = type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 && rank == 3 && (uintptr_t)data % 16 == 0 &&
              interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
              fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE && box[0] * 2 % 16 == 0 &&
              (swizzle == CU_TENSOR_MAP_SWIZZLE_NONE || box[0] * 2 <= 128);
    for (int i = 0; i < 3; i++) {
        ok = ok && extent[i] > 0 && extent[i] <= (uint64_t)1 << 32 && box[i] > 0 && box[i] <= 256 &&
             element_stride[i] == 1;
    }
    for (int i = 0; i < 2; i++) {
        ok = ok && stride[i] % 16 == 0 && stride[i] > 0 && stride[i] < (uint64_t)1 << 40;
    }
    if (!ok) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    emulator_require_visible(data, "a tensor map");
    *map = CUtensorMap{(const char *)data,
                       {extent[0], extent[1], extent[2]},
                       {2, stride[0], stride[1]},
                       {box[0], box[1], box[2]},
                       swizzle};
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **out, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult *found)
{
    if (strcmp(symbol, "cuTensorMapEncodeTiled") != 0) {
        return cudaErrorInvalidValue;
    }
    *out = (void *)cuTensorMapEncodeTiled;
    *found = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

void emulator_copy_box(void *to, const CUtensorMap *map, int x, int y, int z, uint64_t *barrier)
{
    const bool swizzles = map->swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
    const unsigned from = emulator_shared_address(to);
    char *window = (char *)to - from;
    mbarrier *b = (mbarrier *)barrier;
    unsigned at = from;
    want(from % 128 == 0, "a copy to shared memory that is not aligned");
    for (int64_t k = z; k < z + (int64_t)map->box[2]; k++) {
        for (int64_t j = y; j < y + (int64_t)map->box[1]; j++) {
            for (int64_t i = x; i < x + (int64_t)map->box[0]; i++, at += 2) {
                const uint64_t u[3] = {(uint64_t)i, (uint64_t)j, (uint64_t)k};
                char *here = window + (swizzles ? swizzled(at) : at);
                if (u[0] < map->extent[0] && u[1] < map->extent[1] && u[2] < map->extent[2]) {
                    memcpy(here,
                           map->data + u[0] * 2 + u[1] * map->stride[1] + u[2] * map->stride[2], 2);
                } else {
                    memset(here, 0, 2);
                }
            }
        }
    }
    b->bytes -= (int32_t)(at - from);
    settle(b);
}

/* ---- products ---- */

namespace
{

enum { MAX_PENDING = 16, MAX_N = 256, DEPTH = 16 };

struct product {
    float *d;
    int n;
    uint64_t a, b;
    bool mn_a, mn_b;
    int64_t group;
};

/* What a thread has begun and not waited for. */
struct begun {
    product at[MAX_PENDING];
    int n;
    int64_t group, n_begun, n_computed;
    bool fenced;
} begun_by[1024];

/* The operands of a warpgroup's product, read by the first of its threads that comes to it; b as
   the sums of lane t of four want it. */
struct operands {
    int64_t n;
    uint64_t matrix_a, matrix_b;
    float a[DEPTH][64], b[DEPTH][4][MAX_N / 2];
} read_by[1024 / 128][MAX_PENDING];

/* Swizzled by 128 bytes, the pattern from a multiple of 1024 on. */
bool is_known(uint64_t matrix)
{
    return matrix >> 62 == 1 && (matrix >> 49 & 7) == 0;
}

/* Row or column i, depth k, of the matrix. */
float element(uint64_t matrix, bool mn, unsigned i, unsigned k)
{
    const unsigned start = (unsigned)(matrix & 0x3fff) << 4;
    const unsigned leading = (unsigned)(matrix >> 16 & 0x3fff) << 4;
    const unsigned stride = (unsigned)(matrix >> 32 & 0x3fff) << 4;
    const unsigned at = mn ? start + i / 64 * leading + i % 64 * 2 + k / 8 * stride + k % 8 * 128
                           : start + i / 8 * stride + i % 8 * 128 + k * 2;
    uint16_t bits;
    memcpy(&bits, (const char *)emulator_dynamic_shared() + swizzled(at), sizeof bits);
    return __uint_as_float((unsigned)bits << 16);
}

void read(operands *o, const product &p, int64_t n)
{
    o->n = n;
    o->matrix_a = p.a;
    o->matrix_b = p.b;
    for (unsigned k = 0; k < DEPTH; k++) {
        for (unsigned i = 0; i < 64; i++) {
            o->a[k][i] = element(p.a, p.mn_a, i, k);
        }
        for (unsigned i = 0; i < (unsigned)p.n; i++) {
            float *sum = &o->b[k][i % 8 / 2][i / 8 * 4 + i % 2];
            sum[0] = sum[2] = element(p.b, p.mn_b, i, k);
        }
    }
}

/* The operands of product n of this thread's warpgroup. */
operands *operands_of(const product &p, int64_t n)
{
    operands *o = &read_by[threadIdx.x / 128][n % MAX_PENDING];
    if (o->n < n) {
        read(o, p, n);
    }
    return o;
}

/* This thread's part of it. */
void compute(const product &p, begun *mine)
{
    const unsigned t = threadIdx.x % 128, row = t / 32 * 16 + t % 32 / 4;
    const int64_t n = ++mine->n_computed;
    const operands *o = operands_of(p, n);
    want(o->n == n && o->matrix_a == p.a && o->matrix_b == p.b,
         "a warpgroup's threads multiply different matrices");
    for (unsigned k = 0; k < DEPTH; k++) {
        const float *b = o->b[k][t % 4], a = o->a[k][row], a8 = o->a[k][row + 8];
        for (int j = 0; j < p.n / 2; j += 4) {
            const float by[4] = {a, a, a8, a8};
            for (int i = 0; i < 4; i++) {
                p.d[j + i] += by[i] * b[j + i];
            }
        }
    }
}

} // namespace

unsigned emulator_shared_address(const void *ptr)
{
    return (unsigned)((const char *)ptr - (const char *)emulator_dynamic_shared());
}

void emulator_products_begin()
{
    begun_by[threadIdx.x].fenced = true;
}

void emulator_products(float *d, int n, uint64_t a, uint64_t b, bool mn_a, bool mn_b)
{
    begun &mine = begun_by[threadIdx.x];
    want(is_known(a) && is_known(b), "a matrix whose mode is not emulated");
    want(mine.fenced, "products without products_begin");
    want(mine.n < MAX_PENDING && n <= MAX_N, "too many products under way");
    mine.at[mine.n++] = product{d, n, a, b, mn_a, mn_b, mine.group};
    mine.n_begun++;
    if (emulator_running_order() == 1) {
        operands_of(mine.at[mine.n - 1], mine.n_begun);
    }
}

void emulator_products_commit()
{
    begun_by[threadIdx.x].group++;
}

void emulator_products_wait(int n_pending, emulator_site site)
{
    begun &mine = begun_by[threadIdx.x];
    int kept = 0;
    emulator_meet(16 + (int)threadIdx.x / 128, 128, site); /* the whole warpgroup has begun them */
    for (int i = 0; i < mine.n; i++) {
        if (mine.at[i].group < mine.group - n_pending) {
            compute(mine.at[i], &mine);
        } else {
            mine.at[kept++] = mine.at[i];
        }
    }
    mine.n = kept;
    mine.fenced = false;
}
