/* Experts' products on Hopper: tiles of 128 x 256, the depth in steps of 64. In a block one thread
   asks the copy engine for tiles, four steps ahead, and two warpgroups multiply them, 64 rows each.
   A multiprocessor has one block at a time, PER_SM in turn, and a block takes every n-th tile:
   while the sums of one are stored, the first steps of the next arrive. As in product.cu an element
   of c is one sum over k ascending: its bits do not depend on M. */
#include "backend/cuda/hopper_impl.cuh"
#include "backend/cuda/product_impl.h"
#include "backend/cuda/sums_impl.cuh"

namespace
{

enum {
    TILE_M = 128,
    TILE_N = 256,
    PER_SM = 4, /* where NCCL's kernels sit on some multiprocessors the others take more blocks */
    DEPTH = 64,
    STAGES = 4,
    BAND = 16, /* row tiles that share what the cache holds of b */
    WARPGROUP = 128,
    CONSUMERS = 2 * WARPGROUP,
    PART = 64 * 128, /* bytes of 64 rows of 64 numbers */
    PARTS_A = TILE_M / 64,
    PARTS_B = TILE_N / 64,
    STAGE_BYTES = (PARTS_A + PARTS_B) * PART,
    PATTERN = 1024, /* bytes after which the swizzle repeats */
    SHARED_BYTES = STAGES * STAGE_BYTES + PATTERN
};

/* Is a number's neighbour in memory that of the next k, or (MN) that of the next row or column? */
template <sy_grouped_form FORM> struct layout {
    static constexpr bool MN_A = FORM == SY_GROUPED_TN, MN_B = FORM != SY_GROUPED_NT;
    static constexpr bool BY_DEPTH = FORM == SY_GROUPED_TN;
};

/* ---- which tile ---- */

/* A tile of c: rows m0 .. of group's, columns n0 .., the sum over n_k from first_k on. */
struct place {
    int64_t group, first_k, n_k, m0, n0, end_m;
};

/* How far a block has come: the group of its last tile, and that group's first tile. */
struct walk {
    int64_t group, first_tile;
};

/* The place of tile `tile`, which is none before that of the last call; false behind the last. In a
   group, bands of BAND row tiles, and in a band one column tile after the other. */
template <bool BY_DEPTH>
__device__ bool find_place(const sy__product &p, int64_t tile, walk *at, place *out)
{
    const int64_t n_tiles = (p.N + TILE_N - 1) / TILE_N;
    for (; at->group < p.n_groups; at->group++) {
        const int64_t first = p.start[at->group], end = p.start[at->group + 1];
        const int64_t rows = !BY_DEPTH ? end - first : end > first ? p.M : 0;
        const int64_t m_tiles = (rows + TILE_M - 1) / TILE_M, i = tile - at->first_tile;
        if (i >= m_tiles * n_tiles) {
            at->first_tile += m_tiles * n_tiles;
            continue;
        }
        const int64_t band = i / (BAND * n_tiles) * BAND, in_band = i % (BAND * n_tiles);
        const int64_t high = m_tiles - band < BAND ? m_tiles - band : (int64_t)BAND;
        out->group = at->group;
        out->n0 = in_band / high * TILE_N;
        out->m0 = (BY_DEPTH ? 0 : first) + (band + in_band % high) * TILE_M;
        out->end_m = BY_DEPTH ? p.M : end;
        out->first_k = BY_DEPTH ? first : 0;
        out->n_k = BY_DEPTH ? end - first : p.K;
        return true;
    }
    return false;
}

/* ---- stages ---- */

struct barriers {
    uint64_t full[STAGES], empty[STAGES];
};

/* (Where wgmma is lacking the kernel is empty, and nobody uses some functions.) */

/* The stage of a step, and the parity of the phase in which it is filled. */
struct turn {
    int stage;
    unsigned parity;
};

[[maybe_unused]] __device__ inline void pass_on(turn *t)
{
    t->stage = t->stage + 1 == STAGES ? 0 : t->stage + 1;
    t->parity ^= t->stage == 0;
}

/* Ask for a tile of an operand: K inside in one copy, else 64 rows or columns at a time. */
template <bool MN, int PARTS>
__device__ void copy_tile(char *to, const CUtensorMap *map, int64_t mn, int64_t k, int64_t group,
                          uint64_t *full)
{
    for (int i = 0; i < (MN ? PARTS : 1); i++) {
        copy_box(to + i * PART, map, (int)(MN ? mn + 64 * i : k), (int)(MN ? k : mn), (int)group,
                 full);
    }
}

/* One thread: fill stages as they become free. */
template <sy_grouped_form FORM>
__device__ void produce(const sy__product &p, const CUtensorMap *map_a, const CUtensorMap *map_b,
                        char *stages, barriers *b)
{
    using form = layout<FORM>;
    walk at = {};
    place here;
    turn to = {};
    for (int64_t tile = blockIdx.x; find_place<form::BY_DEPTH>(p, tile, &at, &here);
         tile += gridDim.x) {
        for (int64_t k = 0; k < here.n_k; k += DEPTH) {
            char *stage = stages + to.stage * STAGE_BYTES;
            uint64_t *full = &b->full[to.stage];
            barrier_wait(&b->empty[to.stage], to.parity ^ 1);
            barrier_expect(full, STAGE_BYTES);
            copy_tile<form::MN_A, PARTS_A>(stage, map_a, here.m0, here.first_k + k, 0, full);
            copy_tile<form::MN_B, PARTS_B>(stage + PARTS_A * PART, map_b, here.n0, here.first_k + k,
                                           form::BY_DEPTH ? 0 : here.group, full);
            pass_on(&to);
        }
    }
}

/* By depth, rows from `rows` on are the next expert's: 0 in both operands, since 0 * NaN is NaN. */
[[maybe_unused]] __device__ inline void clear_rows(char *stage, int rows, int me)
{
    const int n = (DEPTH - rows) * 8; /* 16 bytes each, in every part */
    for (int i = me; i < (PARTS_A + PARTS_B) * n; i += CONSUMERS) {
        *(uint4 *)(stage + i / n * PART + rows * 128 + i % n * 16) = uint4{0, 0, 0, 0};
    }
    show_stores();
    some_threads_meet<1, CONSUMERS>();
}

/* ---- sums ---- */

/* A step: 64 rows of a by 256 columns of b, 64 deep. */
template <sy_grouped_form FORM>
__device__ void add_step(float (&d)[SUMS], const char *stage, int warpgroup)
{
    using form = layout<FORM>;
    enum { NEXT_A = form::MN_A ? 16 * 128 : 32, NEXT_B = form::MN_B ? 16 * 128 : 32 };
    const unsigned from = shared_address(stage);
    const uint64_t a = describe_matrix<form::MN_A>(from + warpgroup * PART, PART, PATTERN);
    const uint64_t b = describe_matrix<form::MN_B>(from + PARTS_A * PART, PART, PATTERN);
    products_begin();
#pragma unroll
    for (int i = 0; i < DEPTH / 16; i++) {
        products<form::MN_A, form::MN_B>(d, a + i * (NEXT_A / 16), b + i * (NEXT_B / 16));
    }
    products_commit();
}

/* Two warpgroups. A stage is free when the products of the next one have begun and its own are
   done. */
template <class C, sy_grouped_form FORM>
__device__ void consume(const sy__product &p, char *stages, barriers *b)
{
    using form = layout<FORM>;
    const int me = (int)threadIdx.x - WARPGROUP, lane = me % 32;
    walk at = {};
    place here;
    turn from = {};
    for (int64_t tile = blockIdx.x; find_place<form::BY_DEPTH>(p, tile, &at, &here);
         tile += gridDim.x) {
        float d[SUMS] = {};
        int last = from.stage;
        settle(d);
        for (int64_t k = 0; k < here.n_k; k += DEPTH) {
            char *stage = stages + from.stage * STAGE_BYTES;
            barrier_wait(&b->full[from.stage], from.parity);
            if (form::BY_DEPTH && here.n_k - k < DEPTH) {
                clear_rows(stage, (int)(here.n_k - k), me);
            }
            add_step<FORM>(d, stage, me / WARPGROUP);
            products_wait<1>();
            if (k > 0 && lane == 0) {
                barrier_arrive(&b->empty[last]);
            }
            last = from.stage;
            pass_on(&from);
        }
        products_wait<0>();
        settle(d);
        if (lane == 0) {
            barrier_arrive(&b->empty[last]);
        }
        const int64_t m = here.m0 + me / 32 * 16;
        store_sums<C>({(C *)p.c + here.group * p.c_group + m * p.ldc + here.n0, p.ldc,
                       here.end_m - m, p.N - here.n0, p.beta != 0},
                      d);
    }
}

template <class C, sy_grouped_form FORM>
__global__ void __launch_bounds__(WARPGROUP + CONSUMERS, 1)
    hopper_product_kernel(const sy__product p, const __grid_constant__ CUtensorMap map_a,
                          const __grid_constant__ CUtensorMap map_b)
{
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    __shared__ barriers b;
    SY__DYNAMIC_SHARED(char, shared);
    char *stages = shared + (PATTERN - shared_address(shared) % PATTERN) % PATTERN;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&b.full[i], 1);
            barrier_init(&b.empty[i], CONSUMERS / 32);
        }
        barriers_made();
        fetch_map(&map_a);
        fetch_map(&map_b);
    }
    __syncthreads();
    if (threadIdx.x < WARPGROUP) {
        fewer_registers<40>();
        if (threadIdx.x == 0) {
            produce<FORM>(p, &map_a, &map_b, stages, &b);
        }
    } else {
        more_registers<232>();
        consume<C, FORM>(p, stages, &b);
    }
#endif
}

/* ---- the host's side ---- */

using encode_fn = decltype(&cuTensorMapEncodeTiled);

/* An operand as the copy engine sees it: [groups][outer][inner], fetched 64 x box at a time. */
bool make_map(encode_fn encode, const void *data, int64_t inner, int64_t outer, int64_t ld,
              int64_t groups, int64_t group, int box, CUtensorMap *out)
{
    const cuuint64_t extent[3] = {(cuuint64_t)inner, (cuuint64_t)outer, (cuuint64_t)groups};
    const cuuint64_t stride[2] = {2 * (cuuint64_t)ld, 2 * (cuuint64_t)(groups > 1 ? group : ld)};
    const cuuint32_t boxes[3] = {64, (cuuint32_t)box, 1}, ones[3] = {1, 1, 1};
    return encode(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void *>(data), extent,
                  stride, boxes, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class C, sy_grouped_form FORM>
sy_status run(sy_stream *stream, const sy__product &p, bool *done)
{
    using form = layout<FORM>;
    const sy__cuda_device *dev = sy__cuda_device_of(stream->dev);
    const encode_fn encode = (encode_fn)dev->encode_tensor_map;
    const int64_t n_tiles = (p.N + TILE_N - 1) / TILE_N, m_tiles = (p.M + TILE_M - 1) / TILE_M;
    const int64_t tiles = n_tiles * (form::BY_DEPTH ? m_tiles * p.n_groups : m_tiles + p.n_groups);
    const int64_t b_groups = form::BY_DEPTH ? 1 : p.n_groups;
    const int64_t most_blocks = (int64_t)PER_SM * dev->n_sms;
    const unsigned n_blocks = (unsigned)(tiles < most_blocks ? tiles : most_blocks);
    CUtensorMap map_a, map_b;
    *done = make_map(encode, p.a, form::MN_A ? p.M : p.K, form::MN_A ? p.K : p.M, p.lda, 1, 0,
                     form::MN_A ? 64 : TILE_M, &map_a) &&
            make_map(encode, p.b, form::MN_B ? p.N : p.K, form::MN_B ? p.K : p.N, p.ldb, b_groups,
                     p.b_group, form::MN_B ? 64 : TILE_N, &map_b);
    return *done ? launch(stream, "product", dim3(n_blocks), WARPGROUP + CONSUMERS, SHARED_BYTES,
                          hopper_product_kernel<C, FORM>, p, map_a, map_b)
                 : SY_OK;
}

/* Is this kernel the one for it? What is asked does not depend on the number of rows, so that the
   bits of a row do not. The copy engine wants 16 bytes, and so do we in c. */
bool fits(const sy_device *dev, const sy__product *p)
{
    return sy__cuda_device_of(dev)->encode_tensor_map && p->in == SY_BF16 && p->start &&
           !p->width && (!p->by_depth || p->out == SY_F32) && p->alpha == 1 && p->N >= TILE_N / 2 &&
           (p->by_depth ? p->M >= TILE_M : p->K >= DEPTH) && aligned16(p->a) && aligned16(p->b) &&
           aligned16(p->c) && p->lda % 8 == 0 && p->ldb % 8 == 0 && p->b_group % 8 == 0 &&
           p->ldc % 8 == 0 && p->c_group % 8 == 0 && p->N % 8 == 0 && p->M < INT32_MAX &&
           p->N < INT32_MAX && p->K < INT32_MAX;
}

} // namespace

void *sy__hopper_encoder(void)
{
    void *encode = nullptr;
#if !defined(__CUDACC__) || defined(SY_HAVE_SM90A)
    const char *name = "cuTensorMapEncodeTiled";
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion(name, &encode, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t error = cudaGetDriverEntryPoint(name, &encode, cudaEnableDefault, &found);
#endif
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) {
        cudaGetLastError();
        encode = nullptr;
    }
#endif
    return encode;
}

sy_status sy__hopper_product(sy_stream *stream, const sy__product *p, bool *done)
{
    *done = false;
    if (!fits(stream->dev, p)) {
        return SY_OK;
    }
    if (p->n_groups == 0 || p->M == 0 || p->K == 0) {
        *done = true;
        return SY_OK;
    }
    if (p->by_depth) {
        return run<float, SY_GROUPED_TN>(stream, *p, done);
    }
    if (p->out == SY_F32) {
        return p->trans_b ? run<float, SY_GROUPED_NT>(stream, *p, done)
                          : run<float, SY_GROUPED_NN>(stream, *p, done);
    }
    return p->trans_b ? run<bf16, SY_GROUPED_NT>(stream, *p, done)
                      : run<bf16, SY_GROUPED_NN>(stream, *p, done);
}
